"""Markdown of models and judges -> HTML that shows all of it and does nothing.

Tags that somebody wrote are text, a picture is a link, and links go nowhere but to http(s) and
mail addresses; so a page may hold the result as it is.
"""

from collections.abc import MutableMapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fastchat.llm_judge.browser_views import tidy

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token


def html_of(markdown: str) -> str:
    """The text as HTML; bullets and lists as models write them."""
    return _parser().render(tidy(markdown))


@lru_cache(maxsize=1)
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    parser.enable(["table", "strikethrough"]).disable("image")
    parser.validateLink = _is_harmless
    parser.add_render_rule("link_open", _link)
    return parser


def _is_harmless(url: str) -> bool:
    scheme = url.strip().lower().partition(":")[0]
    return scheme in ("http", "https", "mailto")


def _link(
    self: Any, tokens: "Sequence[Token]", index: int, options: Any, env: MutableMapping[str, Any]
) -> str:
    """A link that tells its page nothing of ours."""
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    return self.renderToken(tokens, index, options, env)
