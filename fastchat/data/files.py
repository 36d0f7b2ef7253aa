"""Data files of every container as one stream of values: JSON, JSON Lines, Parquet, compressed.

What a file is, its first bytes say, not its name; a name that promises what the bytes do not
keep is an error. `-` is the standard input. Writing is in `output`.
"""

import glob
import gzip
import io
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from fastchat.data.chunks import Broken, Chunk, Value, cut_array, cut_lines
from fastchat.data.optional import pyarrow, zstandard
from fastchat.data.output import FileFormat, Writer, open_writer
from fastchat.errors import DataError, UsageError

__all__ = ["Broken", "Chunk", "FileFormat", "Value", "Writer", "expand", "open_writer"]
__all__ += ["read_chunks", "read_values"]

STANDARD = "-"
BLOCK_BYTES = 1 << 19
"""Bytes read at once, and so about the size of a chunk."""
COMPRESSED_BYTES = 1 << 16
ROWS_AT_ONCE = 128

_GZIP, _ZSTD, _PARQUET, _BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"\xef\xbb\xbf"
_PROMISES = {
    ".gz": (_GZIP, "gzip"),
    ".zst": (_ZSTD, "Zstandard"),
    ".parquet": (_PARQUET, "Parquet"),
}


def expand(paths: Iterable[str]) -> list[str]:
    """The files that paths and patterns name, each pattern's in the order of their names.

    Raises:
        UsageError: nothing is named, or a pattern fits no file.
    """
    found: list[str] = []
    for path in paths:
        path = os.path.expanduser(path)
        if path == STANDARD or os.path.exists(path) or not glob.has_magic(path):
            found.append(path)
        elif matches := sorted(glob.glob(path, recursive=True)):
            found += matches
        else:
            raise UsageError(f"no file fits the pattern {path!r}.")
    if not found:
        raise UsageError("no input: name a file with --in-file, or - for standard input.")
    if found.count(STANDARD) > 1:
        raise UsageError("standard input (-) can be read only once.")
    return found


def read_values(paths: Iterable[str], *, open_ended: bool = False) -> Iterator[Value]:
    """Every value of the files in order, whatever their containers.

    open_ended: whether an array may end without its `]`, as an unfinished output does.

    Raises:
        UsageError: a pattern fits no file.
        DataError: a file is missing, damaged, or not what it says.
    """
    for chunk in read_chunks(paths, open_ended=open_ended, decodes=True):
        yield from chunk.values()


def read_chunks(
    paths: Iterable[str], *, open_ended: bool = False, decodes: bool = False
) -> Iterator[Chunk]:
    """The files cut into chunks of whole values; errors as in `read_values`.

    decodes: whether the chunks are decoded in this process, and so may be already.
    """
    for path in expand(paths):
        with _naming_errors(path), ExitStack() as opened:
            raw = opened.enter_context(_open(path))
            yield from _chunks(raw, path, opened, open_ended=open_ended, decodes=decodes)


def stored_bytes(paths: Sequence[str]) -> int | None:
    """How long the files are together; None when one has no length that can be known."""
    if not all(os.path.isfile(path) for path in paths):
        return None
    return sum(os.path.getsize(path) for path in paths)


def _chunks(
    raw: io.BufferedReader, path: str, opened: ExitStack, *, open_ended: bool, decodes: bool
) -> Iterator[Chunk]:
    name = "standard input" if path == STANDARD else Path(path).name
    seekable = raw.seekable()
    stream, magic = _decompressed(raw, name, path, opened)

    n_read = 0

    def position() -> int:
        return raw.tell() if seekable else n_read

    if magic.startswith(_PARQUET):
        yield from _parquet_chunks(stream, name, position)
        return
    if magic.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name} is UTF-16 text; save it as UTF-8.")

    def blocks(first: bytes) -> Iterator[bytes]:
        nonlocal n_read
        block = first
        while block:
            n_read += len(block)
            yield block
            block = stream.read(BLOCK_BYTES)

    head = stream.read(BLOCK_BYTES).removeprefix(_BOM)
    while head and not head.strip():
        head = stream.read(BLOCK_BYTES)
    start = head.lstrip()
    if start.startswith(b"["):
        yield from cut_array(
            blocks(start[1:] or stream.read(BLOCK_BYTES)),
            name,
            position=position,
            open_ended=open_ended,
            decodes=decodes,
        )
    elif start:
        if start[:1] not in b'{"tfn-0123456789':
            raise DataError(
                f"{name} is neither a JSON array nor JSON Lines nor Parquet: it begins with "
                f"{start[:12]!r}."
            )
        yield from cut_lines(blocks(head), name, position=position)


def _decompressed(
    raw: io.BufferedReader, name: str, path: str, opened: ExitStack
) -> tuple[IO[bytes], bytes]:
    """The stream below the compression, and its first bytes."""
    magic = raw.peek(4)[:4]
    suffix = Path(path).suffix.lower()
    if magic and suffix in _PROMISES and not magic.startswith(_PROMISES[suffix][0]):
        raise DataError(
            f"{name} is not a {_PROMISES[suffix][1]} file, as its name says: it begins with "
            f"{magic!r}."
        )
    if magic.startswith(_GZIP):
        inner = opened.enter_context(io.BufferedReader(gzip.GzipFile(fileobj=raw)))  # type: ignore[arg-type]
    elif magic.startswith(_ZSTD):
        inner = opened.enter_context(io.BufferedReader(_Zstandard(raw)))  # type: ignore[arg-type]
    else:
        return raw, magic
    return inner, inner.peek(4)[:4]


class _Zstandard(io.RawIOBase):
    """The frames of a Zstandard stream, one after another.

    The library's own reader takes a file that was cut off for one that ends there.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._library = zstandard()
        self._frame: Any = None
        self._stored = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._stored = self._stored or self._raw.read(COMPRESSED_BYTES)
            if not self._stored:
                if self._frame is not None:
                    raise self._library.ZstdError("it was cut off")
                return 0
            if self._frame is None:
                self._frame = self._library.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(self._stored))
            self._stored = b""
            if self._frame.eof:
                self._stored, self._frame = self._frame.unused_data, None
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n


def _parquet_chunks(stream: IO[bytes], name: str, position: Any) -> Iterator[Chunk]:
    arrow = pyarrow()
    from pyarrow import parquet

    with ExitStack() as opened:
        # Parquet is read from its end; only a plain file can be.
        if not isinstance(getattr(stream, "raw", None), io.FileIO) or not stream.seekable():
            stream = _spooled(stream, opened)
        first = 0
        try:
            for batch in parquet.ParquetFile(stream).iter_batches(batch_size=ROWS_AT_ONCE):
                rows = batch.to_pylist()
                yield Chunk(
                    name=name,
                    kind="rows",
                    first=first,
                    n_values=len(rows),
                    data=rows,
                    position=position(),
                )
                first += len(rows)
        except arrow.ArrowException as error:
            raise DataError(f"{name} is a damaged Parquet file: {error}") from None


def _spooled(stream: IO[bytes], opened: ExitStack) -> IO[bytes]:
    """The stream's bytes in a file that can be searched, as Parquet needs."""
    spool = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed by the stack
    shutil.copyfileobj(stream, spool, BLOCK_BYTES)
    spool.seek(0)
    return spool


@contextmanager
def _open(path: str) -> Iterator[io.BufferedReader]:
    if path == STANDARD:
        yield sys.stdin.buffer  # type: ignore[misc]
        return
    with open(path, "rb") as file:
        yield file


@contextmanager
def _naming_errors(path: str) -> Iterator[None]:
    """Turns the errors of reading into one that names the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is a damaged gzip file: {error}. Fetch or write it again."
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise DataError(f"{path} is a damaged Zstandard file: {error}.") from None
        raise
