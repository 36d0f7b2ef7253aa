"""Patterns of model names.

A pattern is text that occurs in a name. `*` stands for any run of characters, `[2-9]` for one
of a set, and a `=` in front makes it the whole name. Case counts only in a pattern that has a
capital letter.
"""

import re
from collections.abc import Iterable
from functools import cache
from typing import TypeVar

V = TypeVar("V")

_PARTS = re.compile(r"\*|\[[^\]]+\]|\[|[^*\[]+")


def is_valid(pattern: str) -> bool:
    """Whether `pattern` fixes something, and its sets are well formed."""
    try:
        return n_fixed(pattern) > 0 and ("[" not in pattern or bool(_regex(pattern)))
    except re.error:
        return False


def fits(pattern: str, name: str) -> bool:
    """Whether `pattern` occurs in `name`."""
    return _regex(pattern).search(name) is not None


@cache
def n_fixed(pattern: str) -> int:
    """How many characters of a name a pattern fixes: its rank among those that fit."""
    return sum(len(part) for part in _parts(pattern) if part[0] not in "*[")


def longest(items: Iterable[tuple[str, V]], name: str) -> V | None:
    """The value of the pattern that fixes most of `name`."""
    found = [(n_fixed(pattern), value) for pattern, value in items if fits(pattern, name)]
    return max(found, key=lambda item: item[0])[1] if found else None


def _parts(pattern: str) -> list[str]:
    """The pattern's stretches of text and its wildcards."""
    return _PARTS.findall(pattern.removeprefix("="))


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    body = "".join(
        ".*" if part == "*" else part if part.startswith("[") else re.escape(part)
        for part in _parts(pattern)
    )
    is_cased = pattern != pattern.lower()
    flags = re.DOTALL if is_cased else re.DOTALL | re.IGNORECASE
    return re.compile(rf"\A{body}\Z" if pattern.startswith("=") else body, flags)
