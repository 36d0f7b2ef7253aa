"""Numbered lists of Markdown whose items are all called 1, and the same lists counted right.

Some pages lose the numbers of a list, and what is learned from them counts 1, 1, 1. A list is
wrong where a line's number 1 follows another without a 2 between. Code is no list.
"""

import re

_FENCE = re.compile(
    r"^ {0,3}(`{3,}|~{3,})[^\n]*\n.*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
_NUMBER = re.compile(r"\n( *)([12])\. ")
_HEADING = re.compile(r"\n#{1,6} ")
_FIRST = "\n1. "


def is_misnumbered(text: str) -> bool:
    """Whether a list counts 1 and then 1 again."""
    return bool(_repetitions(text))


def renumbered(text: str) -> str:
    """The text with such lists counted 1, 2, 3; a heading begins a new list."""
    pieces: list[str] = []
    done, n_before = 0, 1
    previous = 0
    for first, again in _repetitions(text):
        if _HEADING.search(text, first, again):
            n_before, previous = 1, again
            continue
        n_before = n_before + 1 if first == previous else 2
        previous = again
        pieces += [text[done : again + 1], str(n_before)]
        done = again + 2
    return "".join([*pieces, text[done:]])


def _repetitions(text: str) -> list[tuple[int, int]]:
    """Where a number 1 stands (its line break), and where the next one without a 2 between."""
    # Most texts hold no list at all.
    if text.find(_FIRST, text.find(_FIRST) + 1) < 0:
        return []
    # Same length, so that places hold.
    plain = (
        _FENCE.sub(lambda found: "`" * len(found[0]), text)
        if "```" in text or "~~~" in text
        else text
    )
    found: list[tuple[int, int]] = []
    first = -1
    for number in _NUMBER.finditer(plain):
        if number[2] == "2":
            first = -1
        elif not number[1]:
            if first >= 0:
                found.append((first, number.start()))
            first = number.start()
    return found
