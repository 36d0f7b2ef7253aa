"""Files of records, written so that the final name never holds a part of a file.

Everything goes to `NAME.part`; closing flushes it to the disk and renames it. A writer can be
marked between two records, and a later writer can go on from that mark. Compressed files are a
row of frames, one for each mark, which every reader takes for one stream.
"""

import errno
import gzip
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Protocol, Self

import orjson

from fastchat.data.chunks import is_plain
from fastchat.data.optional import pyarrow, zstandard
from fastchat.errors import DataError, UsageError

FileFormat = Literal["json", "jsonl", "parquet"]
Layout = Literal["json", "jsonl"]
"""How values stand one after another: as elements of an array, or each in its line."""

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstandard"}
_FORMATS: dict[str, FileFormat] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_HELD_BYTES = 1 << 18
_ROWS_IN_GROUP = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place between two records from which writing can go on."""

    n_bytes: int
    n_values: int


class Writer(Protocol):
    """Takes values one by one; used in a `with`, which keeps the file only without an error."""

    n_values: int
    part: Path | None
    """Where the unfinished file stands; None when all is written at once."""

    layout: Layout

    def write(self, value: Mapping[str, Any]) -> None:
        """Adds one value."""
        ...

    def write_laid_out(self, data: bytes, n_values: int) -> None:
        """Adds values that `lay_out` has encoded elsewhere in this writer's layout."""
        ...

    def mark(self) -> Mark | None:
        """Where writing could go on; None when this output cannot be taken up again."""
        ...

    def keep_part(self) -> None:
        """Leaves the unfinished file, for a later run to go on, if the `with` ends in an error."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None: ...


def open_writer(
    path: str | Path, format: FileFormat | None = None, *, mark: Mark | None = None
) -> Writer:
    """A writer for the format that `format` or else the name says; JSON without either.

    The standard output (`-`) and what is no regular file are written at once; they get JSON
    Lines unless told otherwise.

    mark: where to go on in the `.part` that an earlier writer left.

    Raises:
        UsageError: the folder is missing or the name's format is not known.
    """
    if str(path) == "-":
        return _TextWriter(_Direct(sys.stdout.buffer), format or "jsonl")
    path = Path(path).expanduser()
    compression = _COMPRESSIONS.get(path.suffix.lower())
    inner = path.with_suffix("") if compression else path
    format = format or _FORMATS.get(inner.suffix.lower(), "json")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}; make it, or write elsewhere.")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file.")
    if path.exists() and not path.is_file():
        return _TextWriter(_Direct(open(path, "wb")), format)
    if format == "parquet":
        if compression:
            raise UsageError(f"{path}: Parquet compresses by itself; leave {path.suffix} out.")
        return _ParquetWriter(path, mark)
    return _TextWriter(_PartFile(path, compression, mark), format, n_values=_count(mark))


def part_path(path: str | Path) -> Path:
    """Where the unfinished output stands."""
    path = Path(path).expanduser()
    return path.with_name(path.name + ".part")


def encode(value: Any, *, indent: bool) -> bytes:
    """JSON as Python's own encoder writes it without `ensure_ascii`, two blanks deep or none.

    The lines of JSON Lines have no blanks after `:` and `,`.
    """
    if is_plain(value):
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None)
    separators = None if indent else (",", ":")
    text = json.dumps(
        value, ensure_ascii=False, indent=2 if indent else None, separators=separators
    )
    return text.encode()


def lay_out(values: Iterable[Any], layout: Layout, *, is_text: bool = False) -> bytes:
    """The values as they stand in a file, without what opens and closes an array.

    is_text: whether it is known that they hold nothing but text, which saves looking for it.
    """
    values = list(values)
    if layout == "jsonl":
        if is_text:
            return b"".join([orjson.dumps(value) + b"\n" for value in values])
        return b"".join([encode(value, indent=False) + b"\n" for value in values])
    if values and (is_text or is_plain(values)):
        return orjson.dumps(values, option=orjson.OPT_INDENT_2)[len("[\n  ") : -len("\n]")]
    # A line break stands only between tokens: within texts it is escaped.
    return b",\n  ".join([encode(x, indent=True).replace(b"\n", b"\n  ") for x in values])


class _Direct:
    """A stream that is written at once."""

    part: Path | None = None

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream

    def write(self, data: bytes) -> None:
        with self._naming_errors():
            self.stream.write(data)

    def mark(self) -> int | None:
        return None

    def close(self, *, keep: bool, part: bool) -> None:
        with self._naming_errors():
            if self.stream is sys.stdout.buffer:
                self.stream.flush()
            else:
                self.stream.close()

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # What is still held goes nowhere, so that the end of the process does not fail on it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            raise DataError("the reader of the output has gone; not all was written.") from None
        except OSError as error:
            raise DataError(f"cannot write the output: {error.strerror or error}.") from None


class _PartFile:
    """A file beside its final name, compressed frame by frame if asked for."""

    def __init__(self, path: Path, compression: str | None, mark: Mark | None) -> None:
        self.path = path
        self.part = part_path(path)
        self._compression = compression
        self._frame: list[bytes] = []
        try:
            self._file = open(self.part, "r+b" if mark else "wb")  # noqa: SIM115 - `close`
            if mark:
                if os.path.getsize(self.part) < mark.n_bytes:
                    self._file.close()
                    raise UsageError(
                        f"{self.part} is shorter than the earlier run left it; run again without "
                        "--resume."
                    )
                self._file.truncate(mark.n_bytes)
                self._file.seek(mark.n_bytes)
        except FileNotFoundError:
            raise UsageError(f"{self.part} is gone; run again without --resume.") from None
        except OSError as error:
            raise UsageError(f"cannot write {self.part}: {error.strerror}.") from None

    def write(self, data: bytes) -> None:
        if self._compression:
            self._frame.append(data)
        else:
            self._write(data)

    def mark(self) -> int:
        self._end_frame()
        self._flush()
        return self._file.tell()

    def close(self, *, keep: bool, part: bool) -> None:
        """Gives the file its name (`keep`), or leaves it as it is (`part`), or removes it."""
        try:
            if keep:
                self._end_frame()
                self._flush()
                os.fsync(self._file.fileno())
        except BaseException:
            keep = False
            raise
        finally:
            try:
                self._file.close()
            except OSError:
                keep = False
            if keep:
                os.replace(self.part, self.path)
            elif not part:
                self.part.unlink(missing_ok=True)

    def _end_frame(self) -> None:
        if not self._frame:
            return
        data = b"".join(self._frame)
        self._frame = []
        if self._compression == "gzip":
            # No time in the header: the same records give the same bytes.
            self._write(gzip.compress(data, 6, mtime=0))
        else:
            self._write(zstandard().ZstdCompressor(level=6).compress(data))

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise _no_room(self.path, error) from None

    def _flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            raise _no_room(self.path, error) from None


class _TextWriter:
    """JSON in the published layout, or JSON Lines."""

    def __init__(
        self, target: _Direct | _PartFile, format: FileFormat, *, n_values: int = 0
    ) -> None:
        if format == "parquet":
            raise UsageError("Parquet can only be written to a file.")
        self.target = target
        self.part = target.part
        self.n_values = n_values
        self.layout: Layout = "json" if format == "json" else "jsonl"
        self._held: list[bytes] = []
        self._n_held = 0
        self._keeps_part = False

    def write(self, value: Mapping[str, Any]) -> None:
        self.write_laid_out(lay_out([value], self.layout), 1)

    def write_laid_out(self, data: bytes, n_values: int) -> None:
        if not n_values:
            return
        if self.layout == "json":
            self._held.append(b",\n  " if self.n_values else b"[\n  ")
        self._held.append(data)
        self.n_values += n_values
        self._n_held += len(data)
        if self._n_held > _HELD_BYTES:
            self._release()

    def mark(self) -> Mark | None:
        self._release()
        n_bytes = self.target.mark()
        return None if n_bytes is None else Mark(n_bytes=n_bytes, n_values=self.n_values)

    def keep_part(self) -> None:
        self._keeps_part = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        keep = kind is None
        try:
            if keep:
                if self.layout == "json":
                    self._held.append(b"\n]" if self.n_values else b"[]")
                self._release()
        except BaseException:
            keep = False
            raise
        finally:
            self.target.close(keep=keep, part=self._keeps_part)

    def _release(self) -> None:
        if self._held:
            self.target.write(b"".join(self._held))
            self._held, self._n_held = [], 0


class _ParquetWriter(_TextWriter):
    """Parquet, by way of JSON Lines: the columns and their types are known only at the end."""

    def __init__(self, path: Path, mark: Mark | None) -> None:
        pyarrow()
        self.path = path
        rows = path.with_name(path.name + ".rows")
        super().__init__(_PartFile(rows, None, mark), "jsonl", n_values=_count(mark))
        self._rows = rows

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is not None:
            return
        try:
            self._convert()
        finally:
            self._rows.unlink(missing_ok=True)

    def _convert(self) -> None:
        arrow = pyarrow()
        from pyarrow import parquet

        part = part_path(self.path)
        try:
            schema = arrow.schema([])
            for table in self._tables():
                schema = arrow.unify_schemas([schema, table.schema], promote_options="permissive")
            with parquet.ParquetWriter(part, schema) as writer:
                for table in self._tables(schema):
                    writer.write_table(table)
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(part, self.path)
        except (arrow.ArrowException, TypeError, OverflowError) as error:
            part.unlink(missing_ok=True)
            raise DataError(
                f"{self.path.name} cannot be Parquet: a field has values of several kinds "
                f"({error}). Write .jsonl instead."
            ) from None
        except OSError as error:
            part.unlink(missing_ok=True)
            raise _no_room(self.path, error) from None

    def _tables(self, schema: Any = None) -> Any:
        arrow = pyarrow()
        rows: list[dict[str, Any]] = []
        with open(self._rows, "rb") as file:
            for line in file:
                rows.append(json.loads(line))
                if len(rows) == _ROWS_IN_GROUP:
                    yield arrow.Table.from_pylist(rows, schema=schema)
                    rows = []
        if rows:
            yield arrow.Table.from_pylist(rows, schema=schema)


def _count(mark: Mark | None) -> int:
    return mark.n_values if mark else 0


def _no_room(path: Path, error: OSError) -> DataError:
    remedy = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return DataError(
        f"cannot write {path}: {error.strerror or error}{remedy}. Nothing stands under that name "
        "that was not there before."
    )
