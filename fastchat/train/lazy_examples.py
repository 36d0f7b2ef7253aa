"""Examples that are tokenized when they are asked for.

The only thing known beforehand is where each record stands in its file. JSON Lines are read in
place; other containers are copied to a temporary file of lines once, record by record.
"""

import mmap
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import orjson

from fastchat.data.files import Broken, read_values
from fastchat.data.records import Record, Rejected, parse_record
from fastchat.errors import DataError
from fastchat.train.account import Account, Rules, teach
from fastchat.train.examples import Example, Labeller

REJECTED = "rejected because"
"""The only key of a line that stands for what was no record in its file."""
N_CACHED = 4096
N_CHECKED = 256
"""Records that are looked at before training begins."""


class RecordLines:
    """The records of some files by number, none of them held in memory."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        self._maps = [self._map(path) for path in self.paths]
        starts = [_line_starts(data) for data in self._maps]
        self._file_of = np.repeat(np.arange(len(starts)), [len(s) - 1 for s in starts])
        self._starts = np.concatenate([s[:-1] for s in starts] or [np.zeros(0, np.int64)])
        self._ends = np.concatenate([s[1:] for s in starts] or [np.zeros(0, np.int64)])

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordLines, (self.paths,)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Record | Rejected:
        file = int(self._file_of[index])
        line = self._maps[file][self._starts[index] : self._ends[index]]
        where = f"{Path(self.paths[file]).name}, record {index + 1}"
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            return Rejected(where=where, reason="not valid JSON")
        if isinstance(value, dict) and set(value) == {REJECTED}:
            return Rejected(where=where, reason=str(value[REJECTED]))
        return parse_record(value, where=where)

    def sizes(self) -> npt.NDArray[np.int64]:
        """Bytes of every record."""
        return self._ends - self._starts

    def _map(self, path: str) -> bytes | mmap.mmap:
        """The bytes of a file of lines, which may be a copy made here."""
        if not path.endswith(".jsonl"):
            with tempfile.TemporaryFile(prefix="fastchat-records-") as copy:
                _copy_lines(path, copy)
                return _mapped(copy)  # the map outlives the file's name
        try:
            with open(path, "rb") as file:
                return _mapped(file)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}.") from None


def _copy_lines(path: str, copy: IO[bytes]) -> None:
    """Writes every record of a file as a line."""
    for found in read_values([path]):
        value = found.value
        if isinstance(value, Broken):
            value = {REJECTED: value.reason}
        copy.write(orjson.dumps(value, default=str, option=orjson.OPT_APPEND_NEWLINE))
    copy.flush()


def _mapped(file: IO[bytes]) -> bytes | mmap.mmap:
    """The bytes of an open file; an empty one cannot be mapped."""
    file.seek(0, 2)
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""


def _line_starts(data: bytes | mmap.mmap) -> npt.NDArray[np.int64]:
    """Where lines that are not blank begin, and where the last of them ends."""
    if not len(data):
        return np.zeros(1, dtype=np.int64)
    starts = [0]
    at = data.find(b"\n")
    while at >= 0:
        starts.append(at + 1)
        at = data.find(b"\n", at + 1)
    if starts[-1] != len(data):
        starts.append(len(data))
    bounds = np.array(starts, dtype=np.int64)
    full = [
        i
        for i in np.flatnonzero(np.diff(bounds) < 8)
        if not data[starts[i] : starts[i + 1]].strip()
    ]
    return np.delete(bounds, full)


class LazyExamples:
    """One example for each record, tokenized when it is asked for; the latest are kept.

    A record that teaches nothing gives its place to the next that does, and is counted.
    """

    def __init__(self, paths: Sequence[str], labeller: Labeller, *, rules: Rules) -> None:
        self.records = RecordLines(paths)
        self.labeller = labeller
        self.rules = rules
        self.account = Account()
        self._seen: set[int] = set()
        self._cache: OrderedDict[int, Example] = OrderedDict()
        self._look_ahead()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        for step in range(len(self)):
            place = (index + step) % len(self)
            if (example := self._example(place)) is not None:
                return example
        raise DataError(f"{', '.join(self.records.paths)} holds nothing to learn from.")

    def lengths(self) -> npt.NDArray[np.int64]:
        """Bytes of every record: its tokens are not known before it is needed."""
        return self.records.sizes()

    def _example(self, index: int) -> Example | None:
        if (example := self._cache.get(index)) is not None:
            self._cache.move_to_end(index)
            return example
        account = Account()
        taken = teach([self.records[index]], self.labeller, rules=self.rules, account=account)
        if index not in self._seen:
            self._seen.add(index)
            self.account.add(account)
        if not taken:
            return None
        self._cache[index] = taken[0][1]
        if len(self._cache) > N_CACHED:
            self._cache.popitem(last=False)
        return taken[0][1]

    def _look_ahead(self) -> None:
        """Tokenizes some records spread over the data, enough to judge it by."""
        n = len(self)
        for index in np.unique(np.linspace(0, n - 1, min(n, N_CHECKED)).astype(int)).tolist():
            self._example(index)
