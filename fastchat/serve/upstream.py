"""HTTP/1.1 from a server of ours to an endpoint: kept connections, bytes as they come.

One request at a time per connection, parsed by httptools on the loop's own transports: a
third of the processor time of a general client, which a gateway that forwards every token
feels. Follows no redirect, reads no proxy variable, decodes no body. Knows nothing of
models or routing.
"""

import asyncio
import contextlib
import functools
import ipaddress
import ssl
from collections.abc import Callable, Collection, Sequence
from typing import Any

import httptools
import orjson

from fastchat.errors import FastChatError, UnavailableError, UsageError
from fastchat.serve.endpoints import Address, parse_address, plain_ip

MAX_HEAD_BYTES = 64 * 1024
HIGH_WATER_BYTES = 64 * 1024
MAX_IDLE = 512
IDLE_S = 30.0

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


class Origin:
    """One base URL and the idle connections to it.

    Args:
        bearer: token that is sent with every request.
        headers: names and values that are sent with every request.

    Raises:
        UsageError: the URL or the token cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float = 5.0,
        bearer: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        if bearer is not None and not (bearer.isascii() and bearer.isprintable()):
            raise UsageError("The token holds characters that cannot be sent.")
        self._bearer = bearer
        self._headers = tuple(headers)
        self.address: Address = parse_address(url)
        self.connect_timeout_s = connect_timeout_s
        self._idle: list[Connection] = []
        self._heads: dict[tuple[str, str], bytes] = {}
        self._closed = False

    async def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        attach: Callable[[Connection], None] | None = None,
    ) -> Connection:
        """Sends a request; returns when the head of the reply is there.

        The caller must `release` the connection. A kept connection that the endpoint closed
        before a byte of the reply is replaced by a new one, once.

        Args:
            attach: is called with every connection that is tried, and may abort it.

        Raises:
            FastChatError: no connection, a broken one, or what it was aborted with.
        """
        data = self._head(method, path) + b"%d\r\n\r\n%b" % (len(body), body)
        if self._idle:
            connection = self._idle.pop()
            with contextlib.suppress(StaleError):
                await self._ask(connection, data, attach)
                return connection
        connection = await self.connect()
        try:
            await self._ask(connection, data, attach)
        except StaleError:
            raise BrokenError("The endpoint closed the connection.") from None
        return connection

    async def _ask(
        self, connection: Connection, data: bytes, attach: Callable[[Connection], None] | None
    ) -> None:
        """Sends on one connection.

        Raises:
            StaleError: it was closed before a byte of the reply.
            FastChatError: it broke later, or was aborted.
        """
        if attach is not None:
            attach(connection)
        try:
            await connection.ask(data)
        except BrokenError:
            if connection.is_unanswered:
                raise StaleError("The connection was closed before a reply.") from None
            raise
        except BaseException:
            connection.abort()
            raise

    async def connect(self) -> Connection:
        """A new connection.

        Raises:
            ConnectError: nobody answers at the address.
        """
        address = self.address
        context = _tls_context() if address.scheme == "https" else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.connect_timeout_s):
                transport, connection = await loop.create_connection(
                    lambda: Connection(self), address.host, address.port, ssl=context
                )
        except (OSError, TimeoutError, UnicodeError):
            raise ConnectError("The endpoint cannot be reached.") from None
        if _is_disguised(address.host, transport.get_extra_info("peername")):
            connection.abort()
            raise ConnectError("The endpoint's name leads to a link-local address.")
        return connection

    def keep(self, connection: Connection) -> None:
        """Takes a connection back for the next request."""
        if self._closed or len(self._idle) >= MAX_IDLE:
            connection.abort()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """Drops a connection that was lost."""
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def close_idle(self, now: float, *, idle_s: float = IDLE_S) -> None:
        """Closes the connections that were not used for `idle_s` seconds."""
        for connection in [c for c in self._idle if now - c.idle_since >= idle_s]:
            connection.abort()
            self.forget(connection)

    def close(self) -> None:
        """Closes the idle connections, and the others when they are released."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()

    def _head(self, method: str, path: str) -> bytes:
        """The request's head up to the value of Content-Length."""
        known = self._heads.get((method, path))
        if known is None:
            target = self.address.prefix + path
            lines = (
                f"{method} {target} HTTP/1.1",
                f"Host: {self.address.netloc}",
                "User-Agent: fastchat",
                "Accept: */*",
                "Content-Type: application/json",
                *([f"Authorization: Bearer {self._bearer}"] if self._bearer else []),
                *(f"{name}: {value}" for name, value in self._headers),
                "Content-Length: ",
            )
            known = self._heads[method, path] = "\r\n".join(lines).encode("ascii")
        return known


class Origins:
    """The origins of a process by base URL, made when first asked for."""

    def __init__(self, *, connect_timeout_s: float = 5.0) -> None:
        self.connect_timeout_s = connect_timeout_s
        self._origins: dict[str, Origin] = {}

    def of(self, url: str) -> Origin:
        """The origin of this base URL."""
        origin = self._origins.get(url)
        if origin is None:
            origin = Origin(url, connect_timeout_s=self.connect_timeout_s)
            self._origins[url] = origin
        return origin

    def close_idle(self, now: float, keep: Collection[str]) -> None:
        """Closes long idle connections, and the origins that are not in `keep`."""
        for url in [url for url in self._origins if url not in keep]:
            self._origins.pop(url).close()
        for origin in self._origins.values():
            origin.close_idle(now)

    def close(self) -> None:
        """Closes everything that is idle."""
        for origin in self._origins.values():
            origin.close()
        self._origins.clear()


async def fetch_json(
    url: str,
    method: str,
    path: str,
    *,
    body: Any = None,
    bearer: str | None = None,
    timeout_s: float = 5.0,
    limit_bytes: int = 4 * 1024 * 1024,
) -> tuple[int, Any]:
    """Status and JSON body of one request on a connection of its own.

    The value is None when the reply is not JSON.

    Raises:
        FastChatError: no connection, no whole reply in time, or too large a one.
    """
    origin = Origin(url, connect_timeout_s=timeout_s, bearer=bearer)
    data = b"" if body is None else orjson.dumps(body)
    try:
        async with asyncio.timeout(timeout_s):
            connection = await origin.send(method, path, data)
            try:
                reply = await connection.read_all(limit_bytes)
            finally:
                connection.abort()
    except TimeoutError:
        raise UnavailableError(f"No answer within {timeout_s:g} s.") from None
    try:
        return connection.status, orjson.loads(reply)
    except orjson.JSONDecodeError:
        return connection.status, None


def _is_disguised(host: str, peer: tuple[str, int] | None) -> bool:
    """Whether a host name, which was checked when it was registered, now means a link-local
    address, where clouds keep their metadata. Such an address can only be named as a number."""
    if peer is None:
        return False
    ip = plain_ip(peer[0])
    return ipaddress.ip_address(ip).is_link_local and ip != host.split("%", 1)[0]


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """One verifying TLS context for the process; loading the certificates takes 20 ms."""
    return ssl.create_default_context()
