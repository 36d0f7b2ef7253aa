"""The one thread that a model's work happens in, and the way from it to its readers.

Loading, every step and embeddings run here, one after another. Jobs are taken between steps,
so that nothing the steps use needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from fastchat.engine.base import Chunk
from fastchat.errors import ModelError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ModelThread:
    """Runs jobs in the order they come, and steps while there are any."""

    def __init__(self, name: str = "model") -> None:
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._step: Callable[[], bool] | None = None
        # A daemon: a process that ends without `close` must not hang on an idle model.
        self._thread = Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def post(self, job: Callable[[], object]) -> None:
        """Runs a job between steps; what it raises is logged."""
        self._jobs.put(job)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """What `function(*args)` gives back or raises, run between steps."""
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args))
            except Exception as error:
                future.set_exception(error)

        self._jobs.put(job)
        return await asyncio.wrap_future(future)

    def set_step(self, step: Callable[[], bool] | None) -> None:
        """Calls `step` again and again, pausing after it gave False until the next job.

        It must not raise. To be called in the thread itself.
        """
        self._step = step

    async def close(self, timeout_s: float = 10.0) -> None:
        """Ends the thread after the jobs that wait already."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, timeout_s)
        if self._thread.is_alive():
            logger.error("the model's thread did not end within %.0f s", timeout_s)

    def _main(self) -> None:
        is_idle = True
        while True:
            try:
                job = self._jobs.get(block=is_idle)
            except Empty:
                job = _nothing
            if job is None:
                return
            try:
                job()
            except Exception:
                logger.exception("a job of the model's thread failed")
            if job is _nothing or self._jobs.empty():
                is_idle = not self._advance()

    def _advance(self) -> bool:
        """One step; False when there is nothing to do, or when it has raised after all."""
        try:
            return self._step is not None and self._step()
        except Exception:
            logger.exception("a step of the model's thread failed")
            return False


class ChunkStream:
    """Chunks on their way from the model's thread to one reader."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[Chunk] = deque()
        self._waiter: asyncio.Future[None] | None = None

    async def next(self) -> Chunk:
        """The next chunk; the model's thread owes one, even when it fails."""
        while not self._chunks:
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._chunks.popleft()

    def push(self, chunk: Chunk) -> None:
        """Hands a chunk over; in the reader's loop."""
        self._chunks.append(chunk)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @staticmethod
    def deliver(chunks: Iterable[tuple[ChunkStream, Chunk]]) -> None:
        """Hands over all chunks of a step, waking each reader's loop once; from any thread."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[ChunkStream, Chunk]]] = {}
        for stream, chunk in chunks:
            by_loop.setdefault(stream._loop, []).append((stream, chunk))
        for loop, batch in by_loop.items():
            with suppress(RuntimeError):  # a loop that is closed has no readers
                loop.call_soon_threadsafe(_push_all, batch)


def model_error(error: Exception) -> ModelError:
    """What a reader is told of a failed step: the kind of failure, nothing of the inside."""
    import torch

    from fastchat.errors import OutOfMemoryError

    if isinstance(error, ModelError):
        return error
    text = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return OutOfMemoryError(
            "the device ran out of memory; shorten the prompt or try again later"
        )
    return ModelError("the model failed while it generated; try again")


def _nothing() -> None:
    """The job of a turn that has none."""


def _push_all(batch: list[tuple[ChunkStream, Chunk]]) -> None:
    for stream, chunk in batch:
        stream.push(chunk)
