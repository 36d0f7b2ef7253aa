"""Counts the style of answers, which style control asks for, into `conv_metadata` of battles."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from fastchat.settings import run_command


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkdownInfoSettings:
    """Adds tokens, headers, lists and bold pieces of each side's answers to battles."""

    input_file: str = tyro.MISSING
    """Battles with their texts: a file, a folder of logs, or a store's URL."""
    output_file: Path = tyro.MISSING
    """Where to write; the name tells its kind: .json, .jsonl, .csv or .parquet."""
    debug: bool = False
    """Show tracebacks."""


def add_markdown_info(settings: MarkdownInfoSettings) -> None:
    """Reads, counts, writes, and prints how many rows have texts."""
    from fastchat.arena.row_files import write_rows
    from fastchat.arena.sources import battle_rows

    refused: Counter[str] = Counter()
    rows = with_metadata(battle_rows(settings.input_file, refused), refused)
    n = write_rows(settings.output_file, rows)
    print(f"rows: {n}, without texts: {refused.pop('no_texts', 0)}")
    for reason, times in refused.most_common():
        print(f"left out, {reason}: {times}")
    print(f"written: {settings.output_file}")


def with_metadata(rows: Iterable[dict[str, Any]], counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """The rows with the published fields of `conv_metadata`; rows without texts stay as they are.

    counts: gets those without texts, as `no_texts`.
    """
    from fastchat.arena.battles import measured

    for row in rows:
        if not all(isinstance(row.get(f"conversation_{side}"), list) for side in "ab"):
            counts["no_texts"] += 1
            yield row
            continue
        known = row.get("conv_metadata")
        made = measured(row)["conv_metadata"]
        yield row | {"conv_metadata": (known if isinstance(known, dict) else {}) | made}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        MarkdownInfoSettings,
        add_markdown_info,
        argv,
        prog="python3 -m fastchat.serve.monitor.add_markdown_info",
    )


if __name__ == "__main__":
    raise SystemExit(main())
