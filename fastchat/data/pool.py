"""Applies record steps to chunks of a file, in worker processes or here, in order.

Only a few chunks are under way at a time, so memory stays the same however long the file is.
"""

import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Protocol

from fastchat.data.chunks import Broken, Chunk, Value
from fastchat.data.output import Layout, lay_out
from fastchat.data.records import Record, Rejected, parse_record
from fastchat.data.report import first_text
from fastchat.data.steps import Dropped, Outcome, RecordStep
from fastchat.errors import ModelError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Which values of the input are wanted, by their place among all values."""

    begin: int = 0
    end: int | None = None
    shard: int = 0
    n_shards: int = 1

    def holds(self, index: int) -> bool:
        """Whether the value is wanted."""
        return (
            index >= self.begin
            and (self.end is None or index < self.end)
            and index % self.n_shards == self.shard
        )

    def touches(self, first: int, n: int) -> bool:
        """Whether a chunk of `n` values from `first` on may hold a wanted one."""
        return first + n > self.begin and (self.end is None or first < self.end)


class Parse(Protocol):
    """What makes a record of a value, or says why it is none."""

    def __call__(self, value: object, *, where: str, need_id: bool) -> Record | Rejected: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is done with every chunk."""

    steps: tuple[RecordStep, ...]
    window: Window
    strict: bool = False
    """Whether a value that is no record is an error."""
    need_id: bool = True
    parse: Parse = parse_record
    """Makes a record of a value; a function of a module, since it is sent to the workers."""
    keep_values: bool = False
    """Whether losses carry the value, for the file of rejects."""
    layout: Layout | None = None
    """Hand over the records encoded so, where nothing but a file comes after the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A record that was dropped, as the report and the rejects need it."""

    reason: str
    step: str
    where: str
    id: str | None = None
    text: str = ""
    value: Any = None
    is_malformed: bool = False


@dataclass(slots=True, kw_only=True)
class Worked:
    """What became of a chunk."""

    n_read: int = 0
    added: int = 0
    items: list[Record | Loss]
    """In the order of the input."""
    changed: Counter[str]
    position: int
    laid_out: bytes = b""
    """The records, where the work has a layout; `items` then holds the losses alone."""
    n_laid_out: int = 0


def work_through(
    chunks: Iterable[tuple[int, Chunk]], work: Work, *, workers: int
) -> Iterator[Worked]:
    """The chunks' outcomes in their order.

    chunks: each with the place of its first value among all values.
    workers: processes; with one, or when there is only one chunk, all is done here.

    Raises:
        DataError: a file is damaged.
        UsageError: a value is no record and the work is strict.
        ModelError: a worker process died.
    """
    source = iter(chunks)
    begun = list(islice(source, 2))
    if workers == 1 or len(begun) < 2:
        worker = Worker(work)
        for first, chunk in chain(begun, source):
            yield worker.work_on(chunk, first)
        return
    # A tenth of a command's start, which those who ask for help need not wait for.
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    pool = ProcessPoolExecutor(
        workers, mp_context=_context(), initializer=_start, initargs=(work, os.getpid())
    )
    try:
        pending: deque[Future[Worked]] = deque()
        for first, chunk in chain(begun, source):
            pending.append(pool.submit(_work_on, chunk, first))
            if len(pending) > workers + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        if sys.version_info < (3, 11, 5):
            # The pool's thread would write to the processes that are gone, and wait for ever
            # (cpython 94777); nobody being there to read, it gives up.
            pool._call_queue._reader.close()  # pyright: ignore
        raise ModelError(
            "a worker process died, probably for want of memory; try fewer --workers."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class Worker:
    """Does the work on chunks in one process."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._is_prepared = False

    def work_on(self, chunk: Chunk, first: int) -> Worked:
        """What becomes of a chunk, whose first value has the place `first`."""
        if not self._is_prepared:
            # Here and not at the start of the process: an error reaches the caller.
            for step in self.work.steps:
                step.prepare()
            self._is_prepared = True
        done = Worked(items=[], changed=Counter(), position=chunk.position)
        for index, found in enumerate(chunk.values(), start=first):
            if self.work.window.holds(index):
                done.n_read += 1
                self._take(found, done)
        if self.work.layout:
            records = [x for x in done.items if isinstance(x, Record)]
            done.laid_out = lay_out(
                [record.to_json() for record in records],
                self.work.layout,
                is_text=all(record.is_text for record in records),
            )
            done.n_laid_out = len(records)
            done.items = [x for x in done.items if isinstance(x, Loss)]
        return done

    def _take(self, found: Value, done: Worked) -> None:
        """Adds to `done` what becomes of one value."""
        record = _parsed(found, self.work)
        if isinstance(record, Loss):
            done.items.append(record)
            return
        if found.repaired:
            done.changed["letters that UTF-8 cannot hold"] += 1
        if type(found.value.get("id")) not in (str, type(None)):
            done.changed["id made text"] += 1
        records: Sequence[Record] = (record,)
        for step in self.work.steps:
            left: list[Record] = []
            for one in records:
                outcome = as_outcome(step.apply(one))
                if outcome.changed:
                    done.changed.update(outcome.changed)
                if outcome.records:
                    done.added += len(outcome.records) - 1
                    left += outcome.records
                else:
                    loss = _loss(one, outcome, step.name, where=found.where, work=self.work)
                    done.items.append(loss)
            records = left
        done.items += records


def as_outcome(answer: Sequence[Record] | Dropped | Outcome) -> Outcome:
    """A step's answer in its full form."""
    if isinstance(answer, Outcome):
        return answer
    if isinstance(answer, Dropped):
        return Outcome(dropped=answer.reason)
    return Outcome(records=answer)


def _parsed(found: Value, work: Work) -> Record | Loss:
    if isinstance(found.value, Broken):
        record: Record | Rejected = Rejected(where=found.where, reason=found.value.reason)
    else:
        record = work.parse(found.value, where=found.where, need_id=work.need_id)
    if isinstance(record, Record):
        return record
    if work.strict:
        of_id = f" (id {record.id})" if record.id else ""
        raise UsageError(
            f"{record.where}{of_id}: {record.reason}. Correct it, or leave --strict out to drop "
            "and count such records."
        )
    return Loss(
        reason=record.reason,
        step="read",
        where=record.where,
        id=record.id,
        value=found.value if work.keep_values and not isinstance(found.value, Broken) else None,
        is_malformed=True,
    )


def _loss(record: Record, outcome: Outcome, step: str, *, where: str, work: Work) -> Loss:
    return Loss(
        reason=outcome.dropped or "nothing left",
        step=step,
        where=where,
        id=record.id,
        text=first_text(record),
        value=record.to_json() if work.keep_values else None,
    )


def _context() -> Any:
    """How worker processes begin.

    A copy of this process begins at once, but is safe only while it has one thread.
    """
    import multiprocessing

    alone = sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1
    return multiprocessing.get_context("fork" if alone else "spawn")


_worker: Worker | None = None
"""In a worker process, what it does."""


def _start(work: Work, parent: int) -> None:
    """Leaves Ctrl-C to the parent process, and ends when that is gone, even killed."""
    global _worker
    _worker = Worker(work)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work_on(chunk: Chunk, first: int) -> Worked:
    assert _worker is not None, "the process was not started by this module"
    return _worker.work_on(chunk, first)
