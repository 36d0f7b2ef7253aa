"""One HTTP/1.1 connection from a server of ours to an endpoint: bytes as they come.

One request at a time, parsed by httptools on the loop's own transports: a third of the processor
time of a general client, which a gateway that forwards every token feels.
"""

import asyncio
from typing import TYPE_CHECKING

import httptools

from fastchat.errors import FastChatError, UnavailableError

if TYPE_CHECKING:
    from fastchat.serve.upstream import Origin

MAX_HEAD_BYTES = 64 * 1024
HIGH_WATER_BYTES = 64 * 1024

Headers = list[tuple[bytes, bytes]]


class ConnectError(UnavailableError):
    """Nobody listens at the endpoint's address, or not in time."""


class BrokenError(UnavailableError):
    """The endpoint closed the connection, or did not speak HTTP, before the reply was whole."""


class StaleError(UnavailableError):
    """The connection was closed before a byte of the reply, as kept ones may be at any time."""


class Connection(asyncio.Protocol):
    """One kept connection, with the reply that is being read from it.

    Attributes:
        status: of the reply, once `Origin.send` has returned.
        headers: of the reply, names in lower case.
        complete: the whole reply has come; some of it may wait to be read.
        fresh: bytes came since somebody last set this to False.
    """

    def __init__(self, origin: "Origin") -> None:
        self.origin = origin
        self.transport: asyncio.Transport | None = None
        self.status = 0
        self.headers: Headers = []
        self.complete = True
        self.fresh = False
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._loop = asyncio.get_running_loop()
        self._error: FastChatError | None = None
        self._head_complete = False
        self._head_bytes = 0
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._paused = False
        self._framed = False
        self._is_kept = False
        self._nudged = False
        self._waiter: asyncio.Future[None] | None = None

    # ---- for the one who asks

    async def ask(self, data: bytes) -> None:
        """Sends a whole request and waits for the head of the reply.

        Raises:
            FastChatError: the connection broke, or was aborted with this error.
        """
        self.status = 0
        self.headers = []
        self.complete = self._head_complete = self._framed = self._is_kept = False
        self._head_bytes = 0
        self._pieces.clear()
        self._buffered = 0
        if self._error is None and self.transport is not None:
            self.transport.write(data)
        while not self._head_complete:
            await self._wait()

    async def read(self) -> bytes:
        """What has come of the body, at least one byte; nothing at its end or when nudged.

        Raises:
            FastChatError: the connection broke, or was aborted with this error.
        """
        while not self._pieces:
            if self.complete:
                return b""
            if self._nudged:
                self._nudged = False
                return b""
            await self._wait()
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._buffered = 0
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return data

    @property
    def is_unanswered(self) -> bool:
        """Whether not a byte of the reply has come."""
        return self._head_bytes == 0

    @property
    def is_drained(self) -> bool:
        """Whether the whole reply has come and been read."""
        return self.complete and not self._pieces

    async def read_all(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            FastChatError: it exceeds `limit_bytes`, or the connection broke.
        """
        parts: list[bytes] = []
        size = 0
        while not self.is_drained:
            part = await self.read()
            size += len(part)
            if size > limit_bytes:
                self.abort()
                raise BrokenError("The endpoint's reply is too large.")
            parts.append(part)
        return b"".join(parts)

    def header(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def nudge(self) -> None:
        """Makes a waiting `read` return nothing, so that its caller can do something else."""
        if self._head_complete and not self._pieces:
            self._nudged = True
            self._wake()

    def release(self) -> None:
        """Gives the connection back: kept if the reply was read whole, else closed."""
        reusable = self.is_drained and self._error is None and self._is_kept
        if reusable:
            self.origin.keep(self)
        else:
            self.abort()

    def abort(self, error: FastChatError | None = None) -> None:
        """Closes the connection at once; whoever waits on it gets `error`."""
        if self._error is None:
            self._error = error or BrokenError("The connection was closed.")
        if self.transport is not None:
            self.transport.abort()
        self._wake()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None and not self.complete:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.fresh = True
        if self.complete:  # nobody asked
            self.abort()
            return
        if not self._head_complete:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort(BrokenError("The endpoint did not answer in HTTP."))
            return
        if not self._head_complete and self._head_bytes > MAX_HEAD_BYTES:
            self.abort(BrokenError("The endpoint's headers are too large."))
        elif self._buffered > HIGH_WATER_BYTES and not self._paused and not self.complete:
            self._paused = True
            if self.transport is not None:
                self.transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.origin.forget(self)
        if not self.complete and self._head_complete and not self._framed and exc is None:
            self.complete = True  # a body without a length ends with the connection
        if self._error is None:
            self._error = BrokenError("The endpoint closed the connection.")
        self._wake()

    # ---- called by the parser

    def on_message_begin(self) -> None:
        if self.complete:  # a second reply to one request must not answer the next
            raise BrokenError("The endpoint sent more than was asked for.")

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._framed = self._framed or name in (b"content-length", b"transfer-encoding")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            self._head_complete = True

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._head_complete:
            self.complete = True
            self._is_kept = self._parser.should_keep_alive()
        else:  # 100 Continue and its kind: the reply is still to come
            self.headers = []
            self._framed = False
