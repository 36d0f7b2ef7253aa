"""The watch stream: the controller's table as one JSON line per change, and who follows it.

The first line holds everything, later ones what changed; a `ping` comes when nothing else
does. A gateway that loses the stream goes on with the table it has.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import orjson

from fastchat.errors import FastChatError, UnavailableError
from fastchat.serve.connection import Connection
from fastchat.serve.endpoints import describe, read_endpoint, read_queue_length
from fastchat.serve.patience import time_limit
from fastchat.serve.router import Change, Listing, Snapshot, diff
from fastchat.serve.upstream import Origin

log = logging.getLogger(__name__)

PING_S = 5.0
SILENCE_S = 15.0
GATHER_S = 0.02
RETRY_S = (0.2, 0.5, 1.0, 2.0, 3.0)
MAX_LINE_BYTES = 64 * 1024 * 1024


class Feed:
    """Sends the table to any number of followers.

    A follower that does not keep up loses nothing: it is sent the difference between what it
    was sent last and what is true when it asks again.
    """

    def __init__(self, take: Callable[[], Snapshot], *, controller_id: str, expiry_s: float):
        self._take = take
        self._head = {"controller_id": controller_id, "expiry_s": expiry_s}
        self._changed = asyncio.Condition()
        self._version = 0
        self._closed = False

    async def announce(self) -> None:
        """Wakes the followers: the table may have changed."""
        async with self._changed:
            self._version += 1
            self._changed.notify_all()

    async def close(self) -> None:
        """Ends all streams."""
        self._closed = True
        await self.announce()

    async def lines(self) -> AsyncIterator[bytes]:
        """One follower's stream."""
        version, sent = self._version, dict(self._take())
        workers = [_describe(listing) for listing in sent.values()]
        yield _line({"event": "snapshot", **self._head, "workers": workers})
        now_s = asyncio.get_running_loop().time
        ping_at = now_s() + PING_S  # news that change nothing, as heart-beats do, put off no ping
        while not self._closed:
            is_old = version == self._version
            if is_old and not await self._has_news(version, within_s=ping_at - now_s()):
                yield _line({"event": "ping"})
                ping_at = now_s() + PING_S
                continue
            await asyncio.sleep(GATHER_S)  # many changes at once become one line each
            version, now = self._version, dict(self._take())
            lines = [_line(_change(change)) for change in diff(sent, now)]
            sent = now
            if lines:
                yield b"".join(lines)
                ping_at = now_s() + PING_S

    async def _has_news(self, version: int, *, within_s: float) -> bool:
        async with self._changed:
            try:
                async with asyncio.timeout(within_s):
                    await self._changed.wait_for(lambda: self._version != version)
            except TimeoutError:
                return False
        return True


class Follower:
    """Keeps a copy of a controller's table up to date, whatever becomes of the controller.

    Args:
        url: the controller's base URL.
        on_snapshot: gets the whole table, the controller's id and its expiry in seconds.
        on_change: gets each later change.
    """

    def __init__(
        self,
        url: str,
        *,
        on_snapshot: Callable[[Snapshot, str, float], None],
        on_change: Callable[[Change], None],
    ) -> None:
        self.url = url
        self.connected = False
        self.asked = asyncio.Event()
        """The controller has answered for the first time, or failed to."""
        self._origin = Origin(url, connect_timeout_s=2.0)
        self._on_snapshot = on_snapshot
        self._on_change = on_change

    async def run(self) -> None:
        """Follows until cancelled; asks again, at growing distances, when the stream ends."""
        failures = 0
        while True:
            reason = "the stream ended"
            try:
                await self._follow()
            except FastChatError as error:
                reason = error.message
            self.asked.set()
            if self.connected:
                failures = 0
                log.warning("controller lost, going on with the last table: %s", reason)
            elif failures == 0:
                log.warning("no controller at %s yet: %s", self.url, reason)
            self.connected = False
            await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
            failures += 1

    async def _follow(self) -> None:
        """Reads one stream to its end."""
        connection: Connection | None = None
        try:
            async with _limit(SILENCE_S):
                connection = await self._origin.send("GET", "/watch")
            if connection.status != 200:
                raise UnavailableError(f"It answered {connection.status} to GET /watch.")
            rest = b""
            while True:
                async with _limit(SILENCE_S):
                    data = await connection.read()
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > MAX_LINE_BYTES:
                    raise UnavailableError("A line of the stream is too long.")
                for line in lines:
                    self._apply(line)
        finally:
            if connection is not None:
                connection.abort()

    def _apply(self, line: bytes) -> None:
        try:
            event = orjson.loads(line)
            match event["event"]:
                case "snapshot":
                    listings = [_listing(worker) for worker in event["workers"]]
                    table = {listing.endpoint.name: listing for listing in listings}
                    self._on_snapshot(table, event["controller_id"], float(event["expiry_s"]))
                    self.connected = True
                    self.asked.set()
                case "set":
                    listing = _listing(event["worker"])
                    self._on_change(Change(name=listing.endpoint.name, listing=listing))
                case "remove":
                    self._on_change(Change(name=event["worker_name"], listing=None))
                case _:  # a ping, or something a newer controller says
                    return
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            raise UnavailableError("What it sent cannot be read; is it a controller?") from None


@contextlib.asynccontextmanager
async def _limit(seconds: float) -> AsyncIterator[None]:
    """A time limit whose passing is an `UnavailableError`."""
    try:
        async with time_limit(seconds):
            yield
    except TimeoutError:
        raise UnavailableError(f"Nothing came for {seconds:g} s.") from None


def _line(event: Mapping[str, Any]) -> bytes:
    return orjson.dumps(event) + b"\n"


def _change(change: Change) -> dict[str, Any]:
    if change.listing is None:
        return {"event": "remove", "worker_name": change.name}
    return {"event": "set", "worker": _describe(change.listing)}


def _describe(listing: Listing) -> dict[str, Any]:
    return describe(listing.endpoint, listing.queue_length)


def _listing(worker: Mapping[str, Any]) -> Listing:
    status = worker["worker_status"]
    return Listing(endpoint=read_endpoint(worker, status), queue_length=read_queue_length(status))
