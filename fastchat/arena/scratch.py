"""What a command must remember of very many rows, kept on the disk while it runs.

A temporary SQLite file holds keys, counts and values; memory holds its cache alone, however many
rows there are. `RowSpool` sets whole rows aside, to be read again in any order.
"""

import hashlib
import sqlite3
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson

from fastchat.errors import DataError

CACHE_KIB = 32 * 1024
"""Memory of the temporary file's cache."""


def digest(*texts: str) -> bytes:
    """16 bytes that stand for the texts; none is taken for the end of another."""
    made = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        made.update(len(data).to_bytes(8, "big"))
        made.update(data)
    return made.digest()


def _full(error: Exception) -> DataError:
    why = getattr(error, "strerror", None) or error
    return DataError(
        f"rows cannot be set aside in {tempfile.gettempdir()}: {why}; free some space or name "
        "another folder by TMPDIR."
    )


class Scratch:
    """Keys with a count and a value, on the disk; gone when it is closed."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("")  # a file without a name, which ends with the connection
        for setting in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._file.execute(f"PRAGMA {setting}")
        self._file.execute(
            "CREATE TABLE held (place INTEGER PRIMARY KEY, key BLOB UNIQUE, n INTEGER, value)"
        )

    def add(self, key: bytes) -> int:
        """Counts the key once more; how often it has come by now."""
        return self._run(
            "INSERT INTO held (key, n) VALUES (?, 1) "
            "ON CONFLICT (key) DO UPDATE SET n = n + 1 RETURNING n",
            (key,),
        )[0][0]

    def is_new(self, key: bytes) -> bool:
        """Whether the key comes for the first time; it is known from now on."""
        return self.add(key) == 1

    def count(self, key: bytes) -> int:
        """How often the key has come."""
        found = self._run("SELECT n FROM held WHERE key = ?", (key,))
        return found[0][0] if found else 0

    def put(self, key: bytes, value: str | bytes | int | float) -> None:
        """Holds a value under the key, in place of what was there."""
        self._run(
            "INSERT INTO held (key, n, value) VALUES (?, 1, ?) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value RETURNING n",
            (key, value),
        )

    def get(self, key: bytes) -> Any:
        """What is held under the key, or None."""
        found = self._run("SELECT value FROM held WHERE key = ?", (key,))
        return found[0][0] if found else None

    def most(self, n: int, *, above: int) -> list[tuple[bytes, int]]:
        """The n keys that came most often, more than `above` times; earlier ones first."""
        return self._run(
            "SELECT key, n FROM held WHERE n > ? ORDER BY n DESC, place LIMIT ?", (above, n)
        )

    def counts(self) -> list[tuple[int, int]]:
        """How many keys came how often: pairs of a count and the keys that have it."""
        return self._run("SELECT n, COUNT(*) FROM held GROUP BY n ORDER BY n", ())

    def __len__(self) -> int:
        return self._run("SELECT COUNT(*) FROM held", ())[0][0]

    def _run(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        try:
            return self._file.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            raise _full(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._file.close()


class RowSpool:
    """Takes rows and gives each back by its number. Memory holds eight bytes for each."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._ends = array("q", [0])
        try:
            for row in rows:
                self.append(row)
        except BaseException:  # nobody holds it yet who could close it
            self._file.close()
            raise

    def append(self, row: Mapping[str, Any]) -> None:
        """Sets a row aside.

        Raises:
            DataError: the disk with the temporary files is full.
        """
        data = orjson.dumps(row)
        try:
            if self._file.tell() != self._ends[-1]:
                self._file.seek(self._ends[-1])
            self._file.write(data)
        except OSError as error:
            raise _full(error) from None
        self._ends.append(self._ends[-1] + len(data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> dict[str, Any]:
        start, end = self._ends[number], self._ends[number + 1]
        if self._file.tell() != start:
            self._file.seek(start)
        return orjson.loads(self._file.read(end - start))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    def in_order_of(self, name: str) -> Iterator[dict[str, Any]]:
        """The rows in the order of a number that each holds; equal ones as they were taken."""
        return (self[number] for number in self.numbers_in_order_of(name))

    def numbers_in_order_of(self, name: str) -> Iterator[int]:
        """The rows' own numbers in that order."""
        values = np.fromiter((row[name] for row in self), np.float64, len(self))
        return map(int, np.argsort(values, kind="stable"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._file.close()
