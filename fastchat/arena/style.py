"""How an answer is written, as numbers: tokens, headers, list items and bold words.

What is counted is the published definition: markdown at the beginning of a line, outside of
fenced code. Nothing here knows about ratings.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastchat.arena.style_control import relative_differences
from fastchat.arena.votes import Floats

if TYPE_CHECKING:
    import polars as pl

FEATURES = ("sum_assistant_tokens", "header_count", "list_count", "bold_count")
"""The published style features of one side of a battle."""

_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_HEADER = re.compile(r"^(#{1,6})\s", re.MULTILINE)
_ORDERED = re.compile(r"^\d+\.\s", re.MULTILINE)
_UNORDERED = re.compile(r"^[-*+]\s", re.MULTILINE)
_STARS = re.compile(r"\*\*[^*\n]+\*\*")
_LINES = re.compile(r"__[^_\n]+__")


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkdownCounts:
    """Markdown of one side's answers together."""

    headers: Mapping[str, int]
    """Headers by level, h1 to h6."""
    lists: Mapping[str, int]
    """Items by kind: ordered, unordered."""
    bold: Mapping[str, int]
    """Bold pieces by their mark: ** and __."""

    def to_metadata(self, side: str) -> dict[str, Any]:
        """The published fields of `conv_metadata` for side a or b."""
        return {
            f"header_count_{side}": dict(self.headers),
            f"list_count_{side}": dict(self.lists),
            f"bold_count_{side}": dict(self.bold),
        }


def count_markdown(text: str) -> MarkdownCounts:
    """The markdown of `text`, fenced code left out; an open fence reaches to the end."""
    text = _CODE.sub("", text)
    levels = [len(mark) for mark in _HEADER.findall(text)]
    return MarkdownCounts(
        headers={f"h{i}": levels.count(i) for i in range(1, 7)},
        lists={
            "ordered": len(_ORDERED.findall(text)),
            "unordered": len(_UNORDERED.findall(text)),
        },
        bold={"**": len(_STARS.findall(text)), "__": len(_LINES.findall(text))},
    )


def style_features(battles: "pl.DataFrame") -> Floats | None:
    """(n, 4) features of battles as `battle_files` reads them; None where one is missing."""
    columns = [f"{name}_{side}" for side in "ab" for name in FEATURES]
    if any(c not in battles.columns or battles[c].null_count() for c in columns):
        return None
    values = battles.select(columns).to_numpy().astype(np.float64)
    return relative_differences(values[:, :4], values[:, 4:])
