"""Adds the scores of reviews up: the table of totals of the 2023 blog, with wins and intervals.

python3 -m fastchat.eval.review_totals --input table
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastchat.llm_judge.extras import needing_extras
from fastchat.settings import alias, run_command

PROG = "python3 -m fastchat.eval.review_totals"


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalSettings:
    """Shows the totals of each pair of models."""

    input: Annotated[Path, alias("-i")] = Path("table")
    """Folder of tables: answer/answer_*.jsonl and review/review_*.jsonl."""
    format: Literal["table", "md", "csv"] = "table"
    """How the table is printed."""
    json: Path | None = None
    """File for the totals as JSON."""
    debug: bool = False
    """Show tracebacks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when there was something to add up."""
    return run_command(TotalSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: TotalSettings) -> None:
    from fastchat.eval.page_data import models_by_answer, read_tables
    from fastchat.eval.totals import total
    from fastchat.llm_judge.running import say
    from fastchat.llm_judge.tables import Table, plain, write_json

    tables = read_tables(settings.input)
    models = models_by_answer(tables.answers)
    pairs = [total(rows, models) for rows in tables.reviews.values()]
    rows = tuple(
        (
            *(pair.first, pair.second, f"{pair.total_first:g}", f"{pair.total_second:g}"),
            *(pair.first_wins, pair.ties, pair.second_wins, f"{pair.share.value:.0%}"),
            f"{pair.share.lower:.0%} to {pair.share.upper:.0%}",
        )
        for pair in pairs
    )
    columns = ("Assistant 1", "Assistant 2", "total 1", "total 2", "wins 1", "ties", "wins 2")
    table = Table(title="Totals", columns=(*columns, "2 of 1", "95% interval"), rows=rows)
    print(table.text(settings.format))
    for pair in pairs:
        if pair.n_unparsed:
            say([f"{pair.first} and {pair.second}: {pair.n_unparsed} reviews have no scores"])
    if settings.json:
        values = {
            pair.first: {
                "other": pair.second,
                "totals": [pair.total_first, pair.total_second],
                "wins": [pair.first_wins, pair.second_wins],
                "ties": pair.ties,
                "unparsed": pair.n_unparsed,
                "share": plain(pair.share),
            }
            for pair in pairs
        }
        write_json(settings.json, values)


if __name__ == "__main__":
    sys.exit(main())
