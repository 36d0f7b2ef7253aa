"""The published remote logger: every line of the log is also posted to a server, in batches.

The queue is bounded: while the server is away the oldest lines are let go, and counted.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from fastchat.arena.events import Event

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)

QUEUE_LIMIT = 10_000
BATCH = 100
TIMEOUT_S = 5.0
TRIES = 5
FIRST_PAUSE_S = 0.5


class RemoteLog:
    """Posts lines to `url`: one as an object, as published, several as a list."""

    def __init__(self, url: str, *, pause_s: float = FIRST_PAUSE_S) -> None:
        """
        Args:
            pause_s: before the second try; it doubles from try to try.
        """
        self.url = url
        self.pause_s = pause_s
        self.dropped = 0
        """Lines that were let go."""
        self._waiting: deque[dict[str, Any]] = deque()
        self._http: httpx2.AsyncClient | None = None
        self._sending: asyncio.Task[None] | None = None

    def add(self, lines: Sequence[Event]) -> None:
        """Queues lines; never waits."""
        for line in lines:
            if len(self._waiting) >= QUEUE_LIMIT:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(as_posted(line))
        if self._waiting and (self._sending is None or self._sending.done()):
            self._sending = asyncio.create_task(self._send_all())

    async def close(self) -> None:
        """Sends what waits, if the server takes it soon, and ends."""
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=TIMEOUT_S)
            self._sending.cancel()
        if self._http is not None:
            await self._http.aclose()

    async def _send_all(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            if not await self._send(batch):
                self.dropped += len(batch)
                log.error("remote log: lines were let go, so far=%d", self.dropped)

    async def _send(self, batch: list[dict[str, Any]]) -> bool:
        """Whether the server has taken them, at the latest at the last try."""
        import httpx2

        if self._http is None:
            self._http = httpx2.AsyncClient(timeout=TIMEOUT_S)
        body = orjson.dumps(batch[0] if len(batch) == 1 else batch)
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(self.pause_s * 2 ** (attempt - 1))
            try:
                headers = {"content-type": "application/json"}
                reply = await self._http.post(self.url, content=body, headers=headers)
            except httpx2.HTTPError as error:
                log.warning("remote log does not answer: %s", type(error).__name__)
                continue
            if reply.is_success:
                return True
        return False


def as_posted(line: Event) -> dict[str, Any]:
    """The row with nested values as JSON texts, as published."""
    return {
        name: orjson.dumps(value).decode() if isinstance(value, dict | list) else value
        for name, value in line.to_row().items()
    }
