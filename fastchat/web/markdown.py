"""What was said, written so that the page's markdown shows all of it.

The browser renders markdown and then removes what is dangerous. Without a step before that,
a tag that somebody wrote would vanish or be obeyed, two prices in a sentence would become a
formula, and a picture would be fetched from wherever it lies. Here such characters become
entities, and a picture a link; code and formulas are left as they are.
`page.js` turns the entities back when a message is copied.
"""

import re
from functools import lru_cache

LESS_THAN = "&#60;"
DOLLAR = "&#36;"
EXCLAMATION = "&#33;"

# Lengths are bounded so that unmatched marks cost little, however many there are.
_VERBATIM = re.compile(
    r"""
      ^[ \t]*(?P<fence>`{3,}|~{3,})[^\n]*\n             # a fence, closed or still open
        (?:.*?^[ \t]*(?P=fence)[`~]*[ \t]*$|.*\Z)
    | (?:\A|(?<=\n\n))(?:(?:[ ]{4}|\t)[^\n]*(?:\n|\Z))+ # an indented block of code
    | (?<!`)(?P<ticks>`{1,2})(?!`).{1,2000}?(?<!`)(?P=ticks)(?!`)
    | \$\$.{1,2000}?\$\$
    | \\\[.{1,2000}?\\\]
    | \\\(.{1,2000}?\\\)
    | (?<![\\$])\$(?=[^\s$])[^$\n]{0,2000}(?<=[^\s\\])\$(?![\d$])   # pandoc's rule
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
# Harmless tags that models use inside markdown, for example in tables.
_TAG = re.compile(r"<(?!/?(?:br|b|i|u|s|em|strong|del|sub|sup|kbd|mark)\s*/?>)(?=[a-zA-Z/!?])")
_IMAGE = re.compile(r"!(?=\[)")
_DOLLAR = re.compile(r"(?<!\\)\$")


@lru_cache(maxsize=256)
def shown(text: str) -> str:
    """`text` as markdown in which tags outside of code are text."""
    parts: list[str] = []
    end = 0
    for match in _VERBATIM.finditer(text):
        parts += [_plain(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join(parts) + _plain(text[end:])


def _plain(text: str) -> str:
    """`text` without anything that would be taken for a tag, a picture or a formula."""
    return _DOLLAR.sub(DOLLAR, _IMAGE.sub(EXCLAMATION, _TAG.sub(LESS_THAN, text)))
