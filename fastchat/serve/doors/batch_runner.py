"""Works through batches: some lines at once, each answer kept before it is counted.

One gateway is at a batch at a time, by a lease. What a gateway that died has answered is not
asked again; a line that it was asking when it died is.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastchat.errors import FastChatError, UsageError
from fastchat.protocol.batch_lines import (
    MAX_ERRORS,
    MAX_LINES,
    LineError,
    answer_line,
    read_line,
    unasked_line,
)
from fastchat.protocol.errors import error_body
from fastchat.serve.asgi import told
from fastchat.serve.doors.body import IGNORED
from fastchat.serve.doors.door_stores import DoorStores
from fastchat.serve.doors.files import file_parts
from fastchat.serve.doors.inside import KEY_ID, Inside

if TYPE_CHECKING:
    from fastchat.store.batches import BatchStore, StoredBatch
    from fastchat.store.files import FileStore

log = logging.getLogger(__name__)

LINES_AT_ONCE = 8
BATCHES_AT_ONCE = 4
POLL_S = 5.0
RENEW_S = 5.0
RETRIES = 8
RETRY_STATUS = frozenset({429, 502, 503, 504})
LONGEST_WAIT_S = 60.0
OUTPUT_LASTS_S = 30 * 86400.0

Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineReply:
    """The reply to the request of one line."""

    status: int
    value: Any
    """Its body; None where it is no JSON."""
    ignored: str = ""
    """The fields without meaning, as its header named them."""
    wait_s: float | None = None
    """How long to wait before another try; None where that would end alike."""


class LostError(Exception):
    """Another gateway holds the batch now."""


class BatchRunner:
    """Works through the batches of the store until it is stopped.

    Args:
        line_limit_bytes: of one line of an input file.
        sleep: waits before a line is asked again.
    """

    def __init__(
        self,
        inside: Inside,
        stores: DoorStores,
        *,
        line_limit_bytes: int,
        sleep: Sleep = asyncio.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._inside = inside
        self._stores = stores
        self._line_limit_bytes = line_limit_bytes
        self._sleep = sleep
        self._now = now
        self._holder = secrets.token_hex(16)
        self._places = asyncio.Semaphore(LINES_AT_ONCE)
        self._batches = asyncio.Semaphore(BATCHES_AT_ONCE)
        self._wake = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._changed: set[asyncio.Event] = set()
        """Of each batch under way: set when it may have been cancelled."""

    def start(self) -> None:
        """Begins to look for batches, unless it does already."""
        self._wake.set()
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())

    def look_again(self) -> None:
        """Looks at once at what has changed in the store."""
        self._wake.set()
        for changed in self._changed:
            changed.set()

    async def stop(self) -> None:
        """Ends what is under way, and leaves its batches to others."""
        tasks = [*self._running, *([self._looking] if self._looking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            self._wake.clear()
            await self._batches.acquire()
            batch = None
            try:
                store = await asyncio.to_thread(self._stores.batches)
                batch = await asyncio.to_thread(store.claim, self._holder)
                if batch is not None:
                    task = asyncio.create_task(self._run(store, batch))
                    self._running.add(task)
                    task.add_done_callback(self._done)
            except FastChatError as error:
                log.warning("batches cannot be looked for: %s", error.message)
            finally:
                if batch is None:
                    self._batches.release()
            if batch is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), POLL_S)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._batches.release()
        self._wake.set()

    # ---- one batch

    async def _run(self, store: "BatchStore", batch: "StoredBatch") -> None:
        """Brings a batch as far as it goes."""
        work = asyncio.ensure_future(self._work(store, batch))
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            while not work.done():
                noticed = asyncio.ensure_future(changed.wait())
                await asyncio.wait(
                    (work, noticed), timeout=RENEW_S, return_when=asyncio.FIRST_COMPLETED
                )
                noticed.cancel()
                changed.clear()
                if work.done():
                    break
                state = await asyncio.to_thread(store.renew, batch.id, self._holder)
                if state is None:
                    return  # another gateway has it
                if state == "cancelling" and not work.done() and batch.status != "cancelling":
                    await _ended(work)
                    await self._finalize(store, batch, "cancelled")
                    return
            work.result()
        except LostError:
            log.warning("batch lost to another gateway: batch=%s", batch.id)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # It stays open, and is taken up again after its lease.
            log.error("batch interrupted: batch=%s", batch.id, exc_info=error)
            await self._sleep(POLL_S)
        finally:
            self._changed.discard(changed)
            await _ended(work)
            with contextlib.suppress(FastChatError):
                await asyncio.to_thread(store.release, batch.id, self._holder)

    async def _work(self, store: "BatchStore", batch: "StoredBatch") -> None:
        files = await asyncio.to_thread(self._stores.files)
        if batch.status == "cancelling":
            await self._finalize(store, batch, "cancelled")
            return
        if batch.status == "validating":
            total, errors = await self._validate(files, batch)
            if errors:
                await self._move(store, batch, "failed", ("validating",), errors=errors)
                return
            await self._move(store, batch, "in_progress", ("validating",), total=total)
        if batch.status != "finalizing":
            await self._ask_all(store, files, batch)
            if self._now() >= batch.expires_at:
                await self._finalize(store, batch, "expired")
                return
        await self._finalize(store, batch, "completed")

    async def _validate(
        self, files: "FileStore", batch: "StoredBatch"
    ) -> tuple[int, list[dict[str, Any]]]:
        """How many lines there are, and what is wrong with the first that cannot be asked."""
        errors: list[dict[str, Any]] = []
        seen: set[str] = set()
        total = 0
        try:
            async with aclosing(self._lines(files, batch)) as lines:
                async for number, data in lines:
                    total += 1
                    try:
                        if total > MAX_LINES:
                            message = f"A batch may have at most {MAX_LINES} lines."
                            raise LineError(code="too_many_tasks", message=message)
                        line = read_line(data, batch.endpoint)
                        if line.custom_id in seen:
                            message = f"The custom_id {line.custom_id[:80]!r} came before."
                            raise LineError(code="duplicate_custom_id", message=message)
                        seen.add(line.custom_id)
                    except LineError as error:
                        errors.append(error.record(number + 1))
                        if total > MAX_LINES or len(errors) >= MAX_ERRORS:
                            break
        except UsageError as error:
            errors.append(LineError(code="invalid_file", message=error.message).record(total + 1))
        if not total and not errors:
            message = "The input file holds no line."
            errors.append(LineError(code="empty_file", message=message).record(1))
        return total, errors

    async def _ask_all(self, store: "BatchStore", files: "FileStore", batch: "StoredBatch") -> None:
        """Asks every line that has no answer yet, until the window closes."""
        answered = await asyncio.to_thread(store.answered, batch.id)
        async with asyncio.TaskGroup() as group, aclosing(self._lines(files, batch)) as lines:
            async for number, data in lines:
                if number in answered:
                    continue
                await self._places.acquire()
                if self._now() >= batch.expires_at:
                    self._places.release()
                    return
                task = group.create_task(self._ask_one(store, batch, number, data))
                task.add_done_callback(lambda _: self._places.release())

    async def _ask_one(
        self, store: "BatchStore", batch: "StoredBatch", number: int, data: bytes
    ) -> None:
        line = read_line(data, batch.endpoint)
        reply = await self._answer(batch, line.body)
        answer = answer_line(line.custom_id, reply.status, reply.value, ignored=reply.ignored)
        is_error = reply.status != 200
        await asyncio.to_thread(store.add_line, batch.id, number, answer, is_error=is_error)

    async def _answer(self, batch: "StoredBatch", body: dict[str, Any]) -> "LineReply":
        """The reply to one request; a busy endpoint is asked again after a while."""
        wait_s = 1.0
        for attempt in range(RETRIES):
            reply = await self._post(batch, body)
            is_last = attempt + 1 == RETRIES or self._now() >= batch.expires_at
            if reply.wait_s is None or is_last:
                return reply
            await self._sleep(min(max(wait_s, reply.wait_s), LONGEST_WAIT_S))
            wait_s *= 2
        raise AssertionError("the last attempt returns")

    async def _post(self, batch: "StoredBatch", body: dict[str, Any]) -> "LineReply":
        try:
            reply = await self._inside.post({KEY_ID: batch.key_id}, batch.endpoint, body)
            try:
                if reply.status in RETRY_STATUS:
                    error = await reply.failure()
                    wait_s = _wait_s(error, reply.status)
                    return LineReply(status=reply.status, value=error_body(error), wait_s=wait_s)
                ignored = reply.kept_headers().get(IGNORED, "")
                return LineReply(status=reply.status, value=await reply.json(), ignored=ignored)
            finally:
                await reply.close()
        except Exception as error:
            shown = told(error, f"line failed: batch={batch.id}")
            wait_s = _wait_s(shown, shown.status)
            return LineReply(status=shown.status, value=error_body(shown), wait_s=wait_s)

    # ---- its end

    async def _finalize(self, store: "BatchStore", batch: "StoredBatch", to: str) -> None:
        """Writes the files of a batch and gives it its last state."""
        files = await asyncio.to_thread(self._stores.files)
        if to != "completed":
            await self._mark_unasked(store, files, batch, to)
        since = ("cancelling",) if to == "cancelled" else ("in_progress", "finalizing")
        if to != "cancelled":
            await self._move(store, batch, "finalizing", since)
            since = ("finalizing",)

        def write() -> dict[str, str]:
            written: dict[str, str] = {}
            for column, is_error in (("output_file_id", False), ("error_file_id", True)):
                lines = store.lines(batch.id, is_error=is_error)
                first = next(lines, None)
                if first is not None:
                    kind = "error" if is_error else "output"
                    stored = files.write(
                        _joined(first, lines),
                        filename=f"{batch.id}_{kind}.jsonl",
                        purpose="batch_output",
                        key_id=batch.key_id,
                        lasts_s=OUTPUT_LASTS_S,
                    )
                    written[column] = stored.id
            return written

        written = await asyncio.to_thread(write)
        await self._move(store, batch, to, since, **written)
        await asyncio.to_thread(store.forget_lines, batch.id)

    async def _mark_unasked(
        self, store: "BatchStore", files: "FileStore", batch: "StoredBatch", to: str
    ) -> None:
        """Gives every line without an answer the reason why it has none."""
        if to == "expired":
            code, why = "batch_expired", "The batch's window closed before this line was asked."
        else:
            code, why = "batch_cancelled", "The batch was cancelled before this line was asked."
        answered = await asyncio.to_thread(store.answered, batch.id)
        with contextlib.suppress(UsageError, LineError):  # it may never have been validated
            async with aclosing(self._lines(files, batch)) as lines:
                async for number, data in lines:
                    if number in answered:
                        continue
                    line = unasked_line(read_line(data, batch.endpoint).custom_id, code, why)
                    await asyncio.to_thread(store.add_line, batch.id, number, line, is_error=True)

    async def _move(
        self,
        store: "BatchStore",
        batch: "StoredBatch",
        to: str,
        since: tuple[str, ...],
        **more: Any,
    ) -> None:
        """Raises LostError where the batch has gone another way meanwhile."""

        def move() -> bool:
            return store.move(batch.id, self._holder, to=to, since=since, **more)

        if not await asyncio.to_thread(move):
            raise LostError

    async def _lines(
        self, files: "FileStore", batch: "StoredBatch"
    ) -> AsyncGenerator[tuple[int, bytes]]:
        """The lines of the input file with their numbers from 0; empty ones are left out.

        Raises:
            UsageError: the file is gone, or a line is too long.
        """
        stored = await asyncio.to_thread(files.get, batch.input_file_id, key_id=batch.key_id)
        if stored is None:
            raise UsageError("The input file was deleted.")
        rest, number = b"", 0
        async with aclosing(file_parts(files, stored.id)) as parts:
            async for part in parts:
                *whole, rest = (rest + part).split(b"\n")
                for line in whole:
                    if line.strip():
                        yield number, line
                    number += 1
                if len(rest) > self._line_limit_bytes:
                    raise UsageError(f"A line exceeds {self._line_limit_bytes} bytes.")
        if rest.strip():
            yield number, rest


def _joined(first: bytes, lines: Iterator[bytes]) -> Iterator[bytes]:
    """Lines as parts of a file."""
    part = first + b"\n"
    for line in lines:
        part += line + b"\n"
        if len(part) >= 1 << 20:
            yield part
            part = b""
    if part:
        yield part


def _wait_s(error: FastChatError, status: int) -> float | None:
    """How long to wait before asking again; None where that would end alike."""
    if status not in RETRY_STATUS or error.code == "insufficient_quota":
        return None
    return float(error.retry_after_s or 0)


async def _ended(task: asyncio.Future[None]) -> None:
    """Cancels, and waits until it has cleaned up."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
