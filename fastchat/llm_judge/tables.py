"""Tables as text, Markdown or CSV, and results as JSON files."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from fastchat.llm_judge.intervals import Estimate
from fastchat.llm_judge.lines import replace_file

Format = Literal["table", "md", "csv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A title, names of columns, and rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]

    def text(self, form: Format = "table") -> str:
        """The table for a reader or a program."""
        cells = [[_cell(cell, form) for cell in row] for row in self.rows]
        if form == "csv":
            held = io.StringIO()
            csv.writer(held, lineterminator="\n").writerows([self.columns, *cells])
            return f"# {self.title}\n{held.getvalue()}"
        if form == "md":
            lines = [self.columns, ["---"] * len(self.columns), *cells]
            body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            return f"### {self.title}\n\n{body}\n"
        lines = [list(self.columns), *cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        body = "\n".join(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        return f"\n########## {self.title} ##########\n{body}\n"


def _cell(value: object, form: Format) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "-"
    return repr(value) if form == "csv" else f"{value:.6f}"


def plain(estimate: Estimate) -> dict[str, Any]:
    """An estimate as JSON; what is not a number or unbounded is null."""
    return {
        "value": _finite(estimate.value),
        "lower": _finite(estimate.lower),
        "upper": _finite(estimate.upper),
        "n": estimate.n,
        "n_questions": estimate.n_clusters,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_json(path: Path, value: object) -> None:
    """Puts `value` into a file, indented; numbers that are none become null."""
    replace_file(path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
