"""Marks prompts that very many people send, and a sample of them that counts on boards."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from fastchat.errors import UsageError
from fastchat.settings import run_command


@dataclass(frozen=True, slots=True, kw_only=True)
class DeduplicationSettings:
    """Adds `dedup_tag` to battles: `high_freq`, and `sampled` where the row counts."""

    input_file: str = tyro.MISSING
    """Battles with their texts: a file, a folder of logs, or a store's URL."""
    output_dir: Path = Path("output")
    """Folder of dedup.json."""
    percentile: float = 0.9999
    """Share of the different prompts that are not of high frequency."""
    debug: bool = False
    """Show tracebacks."""


def deduplication(settings: DeduplicationSettings) -> None:
    """Reads, marks, writes, and prints the most frequent prompts."""
    from fastchat.arena.duplicates import Duplicates, marked
    from fastchat.arena.row_files import write_rows
    from fastchat.arena.sources import battle_rows

    if not 0 <= settings.percentile <= 1:
        raise UsageError(f"--percentile {settings.percentile} is no share; give 0 to 1.")
    refused: Counter[str] = Counter()
    found = Duplicates()
    path = settings.output_dir / "dedup.json"
    rows = battle_rows(settings.input_file, refused)
    write_rows(path, marked(rows, settings.percentile, found))
    print(f"rows: {found.n_rows}, different prompts: {found.n_texts}, limit: {found.limit}")
    print(f"rows of high frequency: {found.n_frequent}; rows that count: {found.n_counted}")
    for text, n in found.frequent:
        print(f"{n:6d} {text[:80]!r}")
    for reason, n in refused.most_common():
        print(f"left out, {reason}: {n}")
    print(f"written: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        DeduplicationSettings,
        deduplication,
        argv,
        prog="python3 -m fastchat.serve.monitor.deduplication",
    )


if __name__ == "__main__":
    raise SystemExit(main())
