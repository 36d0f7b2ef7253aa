"""Everything the arena remembers goes through here: store, published log, remote log.

One thread writes. Records that come while it is busy are written together in the next
transaction, so that many votes share one trip to the disk. A vote is acknowledged when store and
log have it; a chat is written behind the reader's back, and its failure costs the reader nothing.
"""

import asyncio
import datetime
import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fastchat.arena import events
from fastchat.arena.events import Event
from fastchat.errors import FastChatError, StoreError
from fastchat.store.arena import ArenaStore
from fastchat.store.arena_records import Record, StoredRefusals
from fastchat.web.remote_log import RemoteLog
from fastchat.web.silence import line_without_texts, without_texts

log = logging.getLogger(__name__)

WAITING_LIMIT = 10_000
"""Records that wait while the database is away; beyond it chats are let go, and votes refused."""
REFUSALS_S = 1.0
"""How long a counted refusal may wait for its way to the disk."""


@dataclass(frozen=True, slots=True)
class _Entry:
    records: tuple[Record, ...]
    lines: tuple[Event, ...]
    done: asyncio.Future[list[bool]]


class Ledger:
    """The arena's memory, for the coroutines of one event loop."""

    def __init__(
        self,
        store: ArenaStore | None,
        *,
        log_folder: Path | None,
        remote: RemoteLog | None = None,
        keeps_texts: bool = True,
    ) -> None:
        """
        Args:
            store: None remembers nothing but the log.
            log_folder: where the daily logs lie; None writes none.
            keeps_texts: without it nothing that was said is written anywhere.
        """
        self.keeps_texts = keeps_texts
        self.store = store
        self.log_folder = log_folder
        self.remote = remote
        self.lost = 0
        """Chats that neither store nor log could take."""
        self._waiting: list[_Entry] = []
        self._refused: Counter[tuple[str, str]] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._writing: asyncio.Task[None] | None = None
        self._counting: asyncio.Task[None] | None = None

    async def write(self, records: Sequence[Record], lines: Sequence[Event] = ()) -> list[bool]:
        """Has `records` on the disk, and then `lines` in the log, when it returns.

        Returns whether each record was new. Lines are left out when the first one was not.

        Raises:
            StoreError: nothing was written.
        """
        if len(self._waiting) >= WAITING_LIMIT:
            raise StoreError("The store is overloaded; nothing was saved. Try again shortly.")
        if not self.keeps_texts:
            records = [without_texts(record) for record in records]
            lines = [line_without_texts(line) for line in lines]
        done: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Entry(tuple(records), tuple(lines), done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._drain())
        return await asyncio.shield(done)

    def write_later(self, records: Sequence[Record], lines: Sequence[Event] = ()) -> None:
        """`write` without waiting; when the store fails, the log still gets the lines."""
        task = asyncio.create_task(self._write_or_log(records, lines))
        _BACKGROUND.add(task)
        task.add_done_callback(_BACKGROUND.discard)

    def refuse(self, reason: str) -> None:
        """Counts a vote that was not taken."""
        day = datetime.datetime.now(datetime.UTC).date().isoformat()
        self._refused[day, reason] += 1
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._count_refusals())

    async def close(self) -> None:
        """Writes what waits, and ends."""
        if self._counting is not None:
            self._counting.cancel()
        try:
            await self._flush_refusals()
            while _BACKGROUND:
                await asyncio.gather(*_BACKGROUND, return_exceptions=True)
            if self._writing is not None:
                await self._writing
        except FastChatError as error:
            log.error("the last records were not written: %s", error.message)
        if self.remote is not None:
            await self.remote.close()
        self._thread.shutdown()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                results = await loop.run_in_executor(self._thread, self._write_group, group)
            except Exception as error:  # each who waits is told
                for entry in group:
                    entry.done.set_exception(error)
                    entry.done.exception()  # nobody may wait for it any more
                continue
            for entry, new in zip(group, results, strict=True):
                entry.done.set_result(new)
                if self.remote is not None and all(new[:1]):
                    self.remote.add(entry.lines)

    def _write_group(self, group: list[_Entry]) -> list[list[bool]]:
        """On the ledger's thread: one transaction, then the lines."""
        records = [record for entry in group for record in entry.records]
        if self.store is None or not records:
            new = [True] * len(records)
        else:
            new = self.store.record(records)
        results: list[list[bool]] = []
        for entry in group:
            own, new = new[: len(entry.records)], new[len(entry.records) :]
            results.append(own)
            if all(own[:1]):
                self._append(entry.lines)
        return results

    def _append(self, lines: Sequence[Event]) -> None:
        """Adds lines to the log. What is in the store stays acknowledged when the log is full."""
        if self.log_folder is None:
            return
        for line in lines:
            try:
                events.append(self.log_folder, line)
            except OSError as error:
                log.error("the log of conversations cannot be written: %s", error.strerror or error)
                return

    async def _write_or_log(self, records: Sequence[Record], lines: Sequence[Event]) -> None:
        if not self.keeps_texts:
            lines = [line_without_texts(line) for line in lines]
        try:
            await self.write(records, lines)
        except StoreError as error:
            log.error("a chat is not in the store: %s", error.message)
            self.lost += 1
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._append, lines)

    async def _count_refusals(self) -> None:
        await asyncio.sleep(REFUSALS_S)
        while self._refused:
            try:
                await self._flush_refusals()
            except StoreError:
                await asyncio.sleep(REFUSALS_S)

    async def _flush_refusals(self) -> None:
        counted, self._refused = self._refused, Counter()
        records = [StoredRefusals(day=d, reason=r, n=n) for (d, r), n in counted.items()]
        try:
            if records:
                await self.write(records)
        except StoreError:
            self._refused.update(counted)
            raise


_BACKGROUND: set[asyncio.Task[None]] = set()
"""Tasks nobody waits for; the loop itself would let them go."""


def utc_now() -> float:
    """Seconds since the epoch."""
    return round(time.time(), 4)
