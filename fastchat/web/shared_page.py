"""A shared conversation as a page of its own: text only, no script, readable on a phone."""

import html
from collections.abc import Mapping
from typing import Any

from fastchat.web.texts import Texts

STYLE = """
:root { color-scheme: light dark; font: 16px/1.6 system-ui, sans-serif; }
body { max-width: 76rem; margin: 0 auto; padding: 1rem; }
main { display: grid; gap: 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
h2 { font-size: 1rem; border-bottom: 1px solid #8886; padding-bottom: 0.4rem; }
p { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.75rem 0; unicode-bidi: plaintext; }
.user { background: #8882; border-radius: 1rem; padding: 0.5rem 0.9rem; }
"""


def shared_html(page: Mapping[str, Any] | None, texts: Texts) -> str:
    """The document for a stored page; one that says so when there is none."""
    words = texts.arena
    if page is None:
        body = f"<p>{html.escape(words.shared_gone)}</p>"
    else:
        sides = "".join(_side(side) for side in page["sides"])
        labels = {"left": words.left, "right": words.right, "tie": words.tie}
        labels["both_bad"] = words.both_bad
        vote = labels.get(page["vote"], "")
        body = f"<p>{html.escape(vote)}</p><main>{sides}</main>"
    title = html.escape(words.shared_title)
    return (
        '<!doctype html><html><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>"
        f"<body><h1>{title}</h1>{body}</body></html>"
    )


def _side(side: Mapping[str, Any]) -> str:
    said = "".join(
        f'<p class="{html.escape(role, quote=True)}">{html.escape(text)}</p>'
        for role, text in side["messages"]
    )
    return f"<section><h2>{html.escape(side['name'])}</h2>{said}</section>"
