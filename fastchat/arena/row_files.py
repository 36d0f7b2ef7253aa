"""Rows of battles and conversations in files: JSON, JSON Lines, CSV or Parquet, read and written.

A line that cannot be read is counted by reason and left out; a JSON array that was cut off, as a
kill leaves it, gives the rows that are whole.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from fastchat.arena.events import why_unreadable
from fastchat.errors import DataError

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
Rows = Iterator[dict[str, Any]]


def read_rows(path: Path, refused: Counter[str]) -> Rows:
    """The rows of a file in its order; what is no row is counted in `refused`.

    Raises:
        DataError: the file is missing, of no known kind, or not what its name says.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path.name} is no file of rows; known are {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise DataError(f"{path} is not there.")
    return _tabled(path) if suffix in (".csv", ".parquet") else _json_rows(path, refused)


def _json_rows(path: Path, refused: Counter[str]) -> Rows:
    """The rows of an array or of lines; an array that is no JSON is read line by line."""
    with path.open("rb") as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        if start[:1] == b"[":
            try:
                values = orjson.loads(file.read().removeprefix(b"\xef\xbb\xbf"))
            except orjson.JSONDecodeError:
                file.seek(0)
            else:
                yield from _objects(values, refused)
                return
        for line in file:
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if start[:1] == b"[":
                text = text.removeprefix(b"[").removesuffix(b"]").removesuffix(b",").strip()
            if not text:
                continue
            try:
                yield from _objects([orjson.loads(text)], refused)
            except orjson.JSONDecodeError:
                refused[why_unreadable(text)] += 1


def _objects(values: Iterable[Any], refused: Counter[str]) -> Rows:
    for value in values:
        if isinstance(value, dict):
            yield value
        else:
            refused["not_a_row"] += 1


def _tabled(path: Path) -> Rows:
    """The rows of a table; cells that hold JSON lists or objects as text are read as such."""
    import polars as pl

    try:
        is_csv = path.suffix.lower() == ".csv"
        frame = pl.read_csv(path, infer_schema_length=None) if is_csv else pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        shown = str(error).splitlines()[0][:200]
        raise DataError(f"{path.name} cannot be read: {shown}") from None
    for row in frame.iter_rows(named=True):
        yield {name: _cell(value) for name, value in row.items() if value is not None}


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in "[{" and value[-1:] in "]}":
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Writes the rows as the name says, at once: a reader sees the old file or the new one.

    Returns how many there were.

    Raises:
        DataError: the name tells no known kind, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path.name}: rows are written as one of {', '.join(SUFFIXES)}.")
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write = _write_json if suffix in (".json", ".jsonl") else _write_table
        n = write(part, rows, suffix)
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        part.unlink(missing_ok=True)
    return n


def _write_json(path: Path, rows: Iterable[dict[str, Any]], suffix: str) -> int:
    """One row a line, in an array or bare."""
    n = 0
    array = suffix == ".json"
    with path.open("wb") as file:
        file.write(b"[" if array else b"")
        for row in rows:
            file.write((b",\n" if array and n else b"") + orjson.dumps(row))
            file.write(b"" if array else b"\n")
            n += 1
        file.write(b"]\n" if array else b"")
    return n


def _write_table(path: Path, rows: Iterable[dict[str, Any]], suffix: str) -> int:
    import polars as pl

    held = list(rows)
    if suffix == ".csv":
        held = [{k: _text_of(v) for k, v in row.items()} for row in held]
    frame = pl.DataFrame(held, infer_schema_length=None)
    frame.write_csv(path) if suffix == ".csv" else frame.write_parquet(path)
    return len(held)


def _text_of(value: Any) -> Any:
    """What a cell of a CSV can hold."""
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else value
