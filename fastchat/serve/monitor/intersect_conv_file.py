"""Keeps the conversations whose ids stand in a second file."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    from fastchat.arena.row_files import input_rows, write_rows
    from fastchat.arena.scratch import Scratch, digest

    refused: Counter[str] = Counter()
    n_read = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal n_read
        for row in input_rows(settings.input, refused):
            n_read += 1
            yield row

    with Scratch() as wanted:
        for key in _ids(settings.conv_id, refused):
            wanted.add(digest(key))
        rows = (row for row in counted() if wanted.count(digest(row_key(row))))
        n_both = write_rows(settings.out_file, rows)
        n_ids = len(wanted)
    left_out = "".join(f", {reason} {n}" for reason, n in refused.most_common())
    print(f"rows: {n_read}, ids: {n_ids}, in both: {n_both}{left_out}")
    print(f"written: {settings.out_file}")


def _ids(path: Path, refused: Counter[str]) -> Iterator[str]:
    """The ids of a file of rows, or of a plain JSON list of them."""
    from fastchat.arena.release import row_key
    from fastchat.arena.row_files import input_rows

    if ids := _plain_ids(path):
        yield from ids
        return
    yield from (key for row in input_rows(path, refused) if (key := row_key(row)))


def _plain_ids(path: Path) -> list[str]:
    """The ids of a JSON list that holds nothing else; none where the file is no such list."""
    import orjson

    if path.suffix != ".json" or not path.is_file():
        return []
    with path.open("rb") as file:
        if file.read(64).removeprefix(b"\xef\xbb\xbf").replace(b" ", b"").lstrip()[:2] == b"[{":
            return []  # rows, which are many
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        return []
    is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return value if is_list else []


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
