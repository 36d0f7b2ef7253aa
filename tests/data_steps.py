"""Steps for the tests of the pipeline, where worker processes can import them."""

import os
from collections.abc import Iterable, Iterator, Sequence

from fastchat.data.pipeline import Dropped, Outcome
from fastchat.data.records import Record
from fastchat.errors import UsageError


class Sort:
    """Drops ids that end in 3, doubles those in 5, counts those in 7."""

    name = "sort"

    def __init__(self) -> None:
        self.is_prepared = False

    def prepare(self) -> None:
        assert not self.is_prepared
        self.is_prepared = True

    def apply(self, record: Record) -> Sequence[Record] | Dropped | Outcome:
        assert self.is_prepared
        match record.id[-1]:
            case "3":
                return Dropped(reason="ends in 3", record=record)
            case "5":
                return (record, record)
            case "7":
                return Outcome(records=(record,), changed={"sevens": 2})
            case "9":
                return Outcome(dropped="ends in 9", changed={"nines": 1})
        return (record,)


class Once:
    """Drops texts that were there before."""

    name = "once"

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def apply_all(self, records: Iterable[Record]) -> Iterator[Record | Dropped]:
        for record in records:
            if record.turns[1].text in self.seen:
                yield Dropped(reason="again", record=record)
            else:
                self.seen.add(record.turns[1].text)
                yield record

    def resume(self, kept: Iterable[Record]) -> None:
        self.seen = {record.turns[1].text for record in kept}


class Fail:
    """Cannot be prepared, or kills its process."""

    name = "fail"

    def __init__(self, *, dies: bool) -> None:
        self.dies = dies

    def prepare(self) -> None:
        if not self.dies:
            raise UsageError("no such tokenizer.")

    def apply(self, record: Record) -> Sequence[Record]:
        os._exit(1)
