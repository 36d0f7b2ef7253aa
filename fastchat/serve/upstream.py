"""HTTP from a server of ours to its endpoints, over connections that are kept.

Follows no redirect, reads no proxy variable, decodes no body. Knows nothing of models or routing.
"""

import asyncio
import contextlib
import functools
import ipaddress
import ssl
from collections.abc import Callable, Collection, Sequence
from typing import Any

import orjson

from fastchat.errors import UnavailableError, UsageError
from fastchat.serve.connection import BrokenError, ConnectError, Connection, StaleError
from fastchat.serve.endpoints import Address, parse_address, plain_ip
from fastchat.serve.patience import time_limit

MAX_IDLE = 512
IDLE_S = 30.0


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
        self.bearer = bearer
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
            async with time_limit(self.connect_timeout_s):
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
                *([f"Authorization: Bearer {self.bearer}"] if self.bearer else []),
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

    def of(self, url: str, *, bearer: str | None = None) -> Origin:
        """The origin of this base URL, which is sent `bearer`."""
        origin = self._origins.get(url)
        if origin is None or origin.bearer != bearer:
            if origin is not None:
                origin.close()
            origin = Origin(url, connect_timeout_s=self.connect_timeout_s, bearer=bearer)
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
        async with time_limit(timeout_s):
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
