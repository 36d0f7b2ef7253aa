"""Rows of battles and conversations in files: JSON, JSON Lines, CSV or Parquet, read and written.

Files are read and written row by row, or some thousand rows at a time: none is held whole. A line
that cannot be read is counted by reason and left out; a JSON array that was cut off, as a kill
leaves it, gives the rows that are whole.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from fastchat.arena.events import why_unreadable
from fastchat.arena.json_array import array_elements
from fastchat.errors import DataError

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
Rows = Iterator[dict[str, Any]]

_BOM = b"\xef\xbb\xbf"
_LONGEST_LINE = 1 << 26
"""Bytes of a line of an array that is taken for one row."""
_BATCH = 4096
"""Rows of a table that are in memory at once."""


def read_rows(path: Path, refused: Counter[str]) -> Rows:
    """The rows of a file in its order; what is no row is counted in `refused`.

    Raises:
        DataError: the file is missing, of no known kind, or not what its name says.
    """
    check_readable(path)
    return read_values(path, refused) if is_json(path) else _tabled(path)


def input_rows(path: Path, refused: Counter[str]) -> Rows:
    """The same of a file that a person named, which must hold a row or nothing.

    Raises:
        DataError: as `read_rows`; or there is something in the file, and none of it is a row.
    """
    check_readable(path)
    return _some(path, read_rows(path, refused), refused)


def _some(path: Path, rows: Rows, refused: Counter[str]) -> Rows:
    before = refused.total()
    is_empty = True
    for row in rows:
        is_empty = False
        yield row
    if is_empty and refused.total() > before:
        reasons = ", ".join(f"{reason} {n}" for reason, n in refused.most_common())
        raise DataError(f"{path.name} holds no row that can be read: {reasons}.")


def check_readable(path: Path) -> None:
    """Raises DataError where the path is no file that could hold rows."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file of rows.")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path.name} is no file of rows; known are {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise DataError(f"{path} is not there.")


def is_json(path: Path) -> bool:
    """Whether the name is that of a file of JSON or JSON Lines."""
    return path.suffix.lower() in (".json", ".jsonl")


def read_values(path: Path, refused: Counter[str]) -> Rows:
    """The objects of a JSON array or of JSON Lines, whatever the file's name.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for text in _pieces(file):
                try:
                    value = orjson.loads(text)
                except orjson.JSONDecodeError:
                    refused[why_unreadable(text)] += 1
                    continue
                if isinstance(value, dict):
                    yield value
                else:
                    refused["not_a_row"] += 1
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """What should be a row each: lines, or the elements of an array."""
    start = file.read(64)
    n_bom = len(_BOM) * start.startswith(_BOM)
    array = start[n_bom:].lstrip()[:1] == b"["
    skipped = n_bom + start[n_bom:].index(b"[") + 1 if array else n_bom
    file.seek(skipped)
    if array and not _has_rows_as_lines(file):
        file.seek(skipped)
        pieces = array_elements(file)
    else:
        file.seek(skipped)
        pieces = (_of_line(line) for line in file) if array else iter(file)
    return (text for piece in pieces if (text := piece.removeprefix(_BOM).strip()))


def _has_rows_as_lines(file: IO[bytes]) -> bool:
    """Whether one of the next two lines is a whole row, as in arrays that we write."""
    for _ in range(2):
        line = file.readline(_LONGEST_LINE)
        try:
            if isinstance(orjson.loads(_of_line(line)), dict):
                return line.endswith(b"\n") or not file.read(1)
        except orjson.JSONDecodeError:
            continue
    return False


def _of_line(line: bytes) -> bytes:
    """A line of an array without what joins it to the next."""
    text = line.strip()
    if text.endswith(b"]") and not text.startswith(b"["):
        text = text.removesuffix(b"]").rstrip()
    return text.removesuffix(b",")


def _tabled(path: Path) -> Rows:
    """The rows of a table; cells that hold JSON lists or objects as text are read as such."""
    for batch in table_batches(path):
        for row in batch.iter_rows(named=True):
            yield {name: _cell(value) for name, value in row.items() if value is not None}


def table_batches(path: Path) -> "Iterator[pl.DataFrame]":
    """A CSV or Parquet file, some thousand rows at a time.

    Raises:
        DataError: the file is not what its name says.
    """
    import polars as pl

    try:
        if path.suffix.lower() == ".csv":
            with path.open("rb") as file:
                if not file.read(_BATCH).removeprefix(_BOM).strip():
                    return
            frame = pl.scan_csv(path, infer_schema_length=None)
        else:
            frame = pl.scan_parquet(path)
        yield from frame.collect_batches(chunk_size=_BATCH, maintain_order=True)
    except (pl.exceptions.PolarsError, OSError) as error:
        shown = str(error).splitlines()[0][:200]
        raise DataError(f"{path.name} cannot be read: {shown}") from None


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in "[{" and value[-1:] in "]}":
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes the rows as the name says, at once: a reader sees the old file or the new one.

    Returns how many there were.

    Raises:
        DataError: the name tells no known kind, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path.name}: rows are written as one of {', '.join(SUFFIXES)}.")
    write = _write_json if suffix in (".json", ".jsonl") else _write_table
    with written_at_once(path) as part:
        return write(part, rows, suffix)


@contextmanager
def written_at_once(path: Path) -> Iterator[Path]:
    """Where to write what gets the name `path` at the end; nothing is left after an error.

    Raises:
        DataError: the file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder; name a file to write.")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    """Removes what may never have been made, in a folder that may be none."""
    try:
        part.unlink(missing_ok=True)
    except OSError:
        return


def _write_json(path: Path, rows: Iterable[Mapping[str, Any]], suffix: str) -> int:
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


def _write_table(path: Path, rows: Iterable[Mapping[str, Any]], suffix: str) -> int:
    """The rows as JSON Lines first, so that columns are known before any row is written."""
    import polars as pl

    lines = path.with_name(f"{path.name}.jsonl")
    try:
        if suffix == ".csv":
            rows = ({k: _text_of(v) for k, v in row.items()} for row in rows)
        if not (n := _write_json(lines, rows, ".jsonl")):
            frame = pl.DataFrame()
            frame.write_csv(path) if suffix == ".csv" else frame.write_parquet(path)
            return 0
        table = pl.scan_ndjson(lines, infer_schema_length=None)
        if suffix == ".csv":
            table.sink_csv(path)
        else:
            table.sink_parquet(path, row_group_size=_BATCH)
        return n
    except pl.exceptions.PolarsError as error:
        shown = str(error).splitlines()[0][:200]
        raise DataError(f"the rows make no table: {shown}; write them as .jsonl.") from None
    finally:
        _remove(lines)


def _text_of(value: Any) -> Any:
    """What a cell of a CSV can hold."""
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else value
