"""Writes a judgment file anew: one row for each judgment, in order, of chosen models alone.

python3 -m fastchat.llm_judge.clean_judgment --infile mt_bench/model_judgment/gpt-4_single.jsonl
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastchat.errors import DataError, UsageError
from fastchat.settings import run_command

if TYPE_CHECKING:
    from fastchat.llm_judge.records import PairJudgment, SingleJudgment

PROG = "python3 -m fastchat.llm_judge.clean_judgment"


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanSettings:
    """Removes repeated judgments and sorts the rest: NAME.jsonl becomes NAME_clean.jsonl."""

    infile: Path | None = None
    """Must be given: file of grades or of verdicts on pairs."""
    data_dir: Path = Path("data")
    """Where the file is looked for when it is not here."""
    model_list: tuple[str, ...] = ()
    """Models whose judgments stay; by default all."""
    keep: Literal["first", "last"] = "last"
    """Which of several judgments of the same thing stays."""
    debug: bool = False
    """Show tracebacks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when the clean file is written."""
    return run_command(CleanSettings, _run, argv, prog=PROG)


def _run(settings: CleanSettings) -> None:
    from fastchat.llm_judge.lines import encode, read_rows, replace_file
    from fastchat.llm_judge.records import PairJudgment, SingleJudgment
    from fastchat.llm_judge.running import say

    path = settings.infile
    if path is None:
        raise UsageError("Give --infile.")
    path = path if path.exists() else settings.data_dir / path
    if not path.exists():
        raise DataError(f"--infile {settings.infile}: there is no such file.")
    numbers = count()
    kind = PairJudgment if b'"g1_winner"' in path.read_bytes() else SingleJudgment
    held = read_rows(path, kind, lambda _: next(numbers))
    say(held.report())
    rows = held.rows if settings.keep == "last" else reversed(held.rows)
    wanted = set(settings.model_list)
    kept = {row.key: row for row in rows if not wanted or set(models_of(row)) <= wanted}
    if not kept:
        raise DataError(f"{path}: no judgment of {', '.join(settings.model_list) or 'any model'}.")
    output = path.with_name(f"{path.stem}_clean.jsonl")
    ordered = sorted(
        kept.values(), key=lambda row: (*models_of(row), row.question_id, row.turn, *row.judge)
    )
    replace_file(output, map(encode, ordered))
    print(f"{output}: {len(kept)} of {len(held.rows)} judgments")


def models_of(row: "SingleJudgment | PairJudgment") -> tuple[str, ...]:
    """Whom the judgment is about."""
    from fastchat.llm_judge.records import PairJudgment

    return (row.model_1, row.model_2) if isinstance(row, PairJudgment) else (row.model,)


if __name__ == "__main__":
    sys.exit(main())
