"""Files of JSON lines: read with every fault counted, extended by whole lines, replaced at once.

A process that is killed leaves at most one torn line, at the end of a file. Readers count it and
go on; the next writer begins a line of its own after it.
"""

import os
import tempfile
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from fastchat.errors import DataError

R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows(Generic[R]):
    """What a file held, and what was wrong with it."""

    path: Path
    rows: tuple[R, ...]
    """One for each key, the last of its kind, in the order of the keys' first appearance."""
    n_duplicates: int = 0
    """Rows that a later one of the same key replaced."""
    n_torn: int = 0
    """Lines that are not JSON: a writer was killed, or the file was cut."""
    faults: tuple[str, ...] = ()
    """JSON that is no such row: place and reason, one each."""

    def report(self) -> list[str]:
        """What a person should know about the file; empty when all is well."""
        told: list[str] = []
        if self.n_duplicates:
            told.append(f"{self.n_duplicates} duplicate rows, the last of each counts")
        if self.n_torn:
            told.append(f"{self.n_torn} torn lines left out; a new run makes what they held")
        for first in self.faults[:1]:
            more = f" and {len(self.faults) - 1} more" if len(self.faults) > 1 else ""
            told.append(f"{len(self.faults)} rows left out: {first}{more}")
        return [f"{self.path.name}: {line}" for line in told]


def read_rows(path: Path, kind: type[R], key: Callable[[R], Hashable]) -> Rows[R]:
    """The rows of `path`, the last of each key; no rows when there is no such file.

    Raises:
        DataError: the file cannot be read.
    """
    kept: dict[Hashable, R] = {}
    n_rows = n_torn = 0
    faults: list[str] = []
    for number, line in _lines(path):
        try:
            row = kind.model_validate(orjson.loads(line))
        except orjson.JSONDecodeError:
            n_torn += 1
        except ValidationError as error:
            faults.append(f"{path.name}:{number}: {_reason(error)}")
        else:
            n_rows += 1
            kept[key(row)] = row
    return Rows(
        path=path,
        rows=tuple(kept.values()),
        n_duplicates=n_rows - len(kept),
        n_torn=n_torn,
        faults=tuple(faults),
    )


def encode(row: BaseModel | Mapping[str, Any]) -> bytes:
    """One line, its end included; fields that were not set stay out."""
    value = row.model_dump(exclude_unset=True) if isinstance(row, BaseModel) else row
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


class Appender:
    """Extends a file by whole lines; each is with the system when `write` returns.

    Several processes may append to one file: a line is one write at the file's end.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror}).") from None
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")  # after a torn line

    def write(self, row: BaseModel | Mapping[str, Any]) -> None:
        """Adds one row."""
        data = encode(row)
        if os.write(self._file, data) != len(data):
            raise DataError("The disk is full: a row could not be written whole.")

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> "Appender":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def replace_file(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Puts `data` in the place of `path` at once: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def put_in_order(path: Path, kind: type[R], key: Callable[[R], Hashable], order: Any) -> None:
    """Sorts the rows of `path` and drops replaced ones and torn lines.

    Rows that cannot be read stay, in `NAME.rejected` beside it.
    """
    held = read_rows(path, kind, key)
    if held.faults:
        numbers = {int(fault.split(":")[1]) for fault in held.faults}
        rejected = [line for n, line in _lines(path) if n in numbers]
        with open(path.with_name(path.name + ".rejected"), "ab") as file:
            file.writelines(line + b"\n" for line in rejected)
    replace_file(path, map(encode, sorted(held.rows, key=order)))


def _lines(path: Path) -> Sequence[tuple[int, bytes]]:
    """The lines that hold something, with their numbers."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "row"
    return f"{place}: {first['msg']}"
