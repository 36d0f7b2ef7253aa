"""Keeps the conversations whose ids stand in a second file."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from fastchat.settings import run_command


@dataclass(frozen=True, slots=True, kw_only=True)
class IntersectSettings:
    """Keeps the conversations whose ids stand in a second file."""

    input: Path = tyro.MISSING
    """Conversations or battles: JSON, JSON Lines, CSV or Parquet."""
    conv_id: Path = tyro.MISSING
    """Rows with the ids to keep; of JSON, a plain list of ids is one as well."""
    out_file: Path = Path("intersect.json")
    """The rows that are in both; the name tells its kind."""
    debug: bool = False
    """Show tracebacks."""


def intersect(settings: IntersectSettings) -> None:
    """Reads both, writes the rows of the first, and prints how many there are."""
    from fastchat.arena.release import row_key
    from fastchat.arena.row_files import read_rows, write_rows

    refused: Counter[str] = Counter()
    wanted = _ids(settings.conv_id, refused)
    n_read = 0
    rows = []
    for row in read_rows(settings.input, refused):
        n_read += 1
        if row_key(row) in wanted:
            rows.append(row)
    write_rows(settings.out_file, rows)
    left_out = "".join(f", {reason} {n}" for reason, n in refused.most_common())
    print(f"rows: {n_read}, ids: {len(wanted)}, in both: {len(rows)}{left_out}")
    print(f"written: {settings.out_file}")


def _ids(path: Path, refused: Counter[str]) -> set[str]:
    """The ids of a file of rows, or of a plain JSON list of them."""
    import orjson

    from fastchat.arena.release import row_key
    from fastchat.arena.row_files import read_rows

    if path.suffix == ".json" and path.is_file():
        try:
            value = orjson.loads(path.read_bytes())
        except orjson.JSONDecodeError:
            value = None
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            return set(value)
    return {key for row in read_rows(path, refused) if (key := row_key(row))}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        IntersectSettings,
        intersect,
        argv,
        prog="python3 -m fastchat.serve.monitor.intersect_conv_file",
    )


if __name__ == "__main__":
    raise SystemExit(main())
