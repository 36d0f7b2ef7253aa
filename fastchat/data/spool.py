"""Records set aside on disk, to be read again in any order."""

import tempfile
from array import array
from types import TracebackType
from typing import Self

import orjson

from fastchat.data.output import encode
from fastchat.data.records import Record, Rejected, parse_record
from fastchat.errors import DataError


class Spool:
    """Takes records and gives each back by its number. Memory holds eight bytes for each."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, record: Record) -> None:
        """Sets a record aside.

        Raises:
            DataError: the disk with the temporary files is full.
        """
        try:
            n_bytes = self._file.write(encode(record.to_json(), indent=False))
        except OSError as error:
            raise DataError(
                f"cannot set records aside in {tempfile.gettempdir()}: {error.strerror}; free "
                "some space or name another folder by TMPDIR."
            ) from None
        self._ends.append(self._ends[-1] + n_bytes)

    def __getitem__(self, number: int) -> Record:
        start, end = self._ends[number], self._ends[number + 1]
        self._file.seek(start)
        record = parse_record(orjson.loads(self._file.read(end - start)), where=str(number))
        assert not isinstance(record, Rejected)
        return record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._file.close()
