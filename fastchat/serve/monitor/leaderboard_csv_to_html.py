"""Prints a table of models as rows of an HTML table, for a page of one's own."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from fastchat.settings import run_command

if TYPE_CHECKING:
    from fastchat.arena.model_table import ModelInfo

MISSING = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvToHtmlSettings:
    """Prints the rows of a leaderboard CSV as HTML, the best rated models first."""

    input: Path = tyro.MISSING
    """The published leaderboard table: CSV with a column `key`."""
    debug: bool = False
    """Show tracebacks."""


def leaderboard_csv_to_html(settings: CsvToHtmlSettings) -> None:
    """Prints a row of headings, then one a model."""
    from fastchat.arena.model_table import read_model_table

    infos = read_model_table(settings.input).values()
    print(f"<tr>{''.join(f'<th>{name}</th>' for name in HEADS)}</tr>")
    for info in sorted(infos, key=lambda info: -(info.arena_rating or 0.0)):
        print(row_of(info))


HEADS = (
    *("Model", "Arena rating", "MT-bench", "MT-bench win rate", "MMLU"),
    *("Organization", "License", "Knowledge cutoff"),
)


def row_of(info: "ModelInfo") -> str:
    """A model as a row; what the table does not tell is a dash."""
    name = html.escape(info.name)
    mmlu = None if info.mmlu is None else 100.0 * info.mmlu
    numbers = [(info.arena_rating, 0), (info.mt_bench, 2), (info.mt_bench_win_rate, 1), (mmlu, 1)]
    cells = [f'<a href="{html.escape(info.link)}">{name}</a>' if info.link else name]
    cells += [MISSING if value is None else f"{value:.{places}f}" for value, places in numbers]
    texts = (info.organization, info.license, info.knowledge_cutoff)
    cells += [html.escape(text) or MISSING for text in texts]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        CsvToHtmlSettings,
        leaderboard_csv_to_html,
        argv,
        prog="python3 -m fastchat.serve.monitor.leaderboard_csv_to_html",
    )


if __name__ == "__main__":
    raise SystemExit(main())
