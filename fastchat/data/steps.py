"""What a step of the pipeline is, and what it can answer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from fastchat.data.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A record that goes no further."""

    reason: str
    """The same few words for every record of the kind: they are counted."""
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a record, where records alone do not say it all."""

    records: Sequence[Record] = ()
    dropped: str | None = None
    """Why there are no records."""
    changed: Mapping[str, int] = field(default_factory=dict)
    """What was changed, and how often; summed up in the report."""


class RecordStep(Protocol):
    """Looks at one record at a time.

    It is sent to the worker processes before it is prepared, so until then it holds only what
    can be pickled.
    """

    @property
    def name(self) -> str:
        """The step in reports."""
        ...

    def prepare(self) -> None:
        """Loads what the step needs; called once in each process before the first record."""
        ...

    def apply(self, record: Record) -> Sequence[Record] | Dropped | Outcome:
        """What becomes of the record."""
        ...


@runtime_checkable
class StreamStep(Protocol):
    """Sees all records in the order of the input, in one process."""

    @property
    def name(self) -> str:
        """The step in reports."""
        ...

    def apply_all(self, records: Iterable[Record]) -> Iterator[Record | Dropped]:
        """What becomes of the records."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A stream step that answers each record before it asks for the next, and can go on later."""

    def resume(self, kept: Iterable[Record]) -> None:
        """Takes up what it knew after it had let through exactly the records `kept`."""
        ...
