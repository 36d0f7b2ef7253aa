"""Admission: how many requests a worker runs, and how many may wait for a place."""

import asyncio
from collections import deque

from fastchat.errors import BusyError, UnavailableError


class Admission:
    """`async with admission:` holds one place; who comes first is served first.

    The place is given back on every way out of the block, and a waiter that is cancelled
    leaves the queue at once.

    Raises:
        BusyError: the queue is full.
        UnavailableError: the worker is about to stop.
    """

    def __init__(self, limit: int, max_waiting: int) -> None:
        self.limit = limit
        self.max_waiting = max_waiting
        self.running = 0
        self.is_closed = False
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    @property
    def queue_length(self) -> int:
        """Requests that run or wait, each counted once."""
        return self.running + len(self._waiters)

    def close(self) -> None:
        """Refuses everyone from now on, those who wait as well."""
        self.is_closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(_stopping())

    async def __aenter__(self) -> None:
        if self.is_closed:
            raise _stopping()
        if self.running < self.limit and not self._waiters:
            self.running += 1
            return
        if len(self._waiters) >= self.max_waiting:
            raise BusyError(
                f"All {self.limit} places are taken and {self.max_waiting} requests wait; "
                "try again shortly."
            )
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self._leave()  # the place came in the same moment as the cancellation
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        """Hands the place to the first waiter that still waits."""
        self.running -= 1
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self.running += 1
                waiter.set_result(None)
                return


def _stopping() -> UnavailableError:
    return UnavailableError("This worker is about to stop; try again shortly.")
