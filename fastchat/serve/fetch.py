"""Pictures from the network, for requests that name them by address.

Whoever may name an address may otherwise reach what only this machine can reach. So: http and
https only; every address of a host must be public, and the one that was checked is the one that is
connected to; redirects are followed three times at most, each checked alike; size, time and kind
are limited; nothing tells a refused address from one that does not answer.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from fastchat.engine.base import GenerationRequest
from fastchat.engine.images import MAX_BYTES, MAX_IMAGES
from fastchat.errors import UsageError
from fastchat.message import Message

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL = 2048
MAX_REDIRECTS = 3
TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 3.0
AT_ONCE = 8
KINDS = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")

_NAT64 = ipaddress.IPv6Network("64:ff9b::/32")
_REDIRECTS = (301, 302, 303, 307, 308)


def is_public(address: Address) -> bool:
    """Whether an address belongs to the open network, those that lead on to IPv4 included."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.sixtofour is not None or address.teredo is not None or address in _NAT64:
            return False
    return address.is_global and not address.is_multicast


class PictureFetcher:
    """Fetches pictures; one for a process, closed at its end."""

    def __init__(
        self,
        *,
        is_allowed: Callable[[Address], bool] = is_public,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._is_allowed = is_allowed
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def data_url(self, url: str) -> str:
        """The picture at an address as a `data:` address.

        Raises UsageError, with `messages` as its param.
        """
        try:
            async with asyncio.timeout(self._timeout.total):
                kind, data = await self._fetched(_parsed(url))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            raise _refused("cannot be fetched from here") from None
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"

    async def _fetched(self, url: URL) -> tuple[str, bytes]:
        for _ in range(MAX_REDIRECTS + 1):
            self._check_literal(url)
            async with self._opened().get(url, allow_redirects=False) as reply:
                if reply.status in _REDIRECTS:
                    target = reply.headers.get("location", "")
                    url = _checked(url.join(_parsed(target, is_relative=True)))
                    continue
                if reply.status != 200:
                    raise _refused("cannot be fetched from here")
                return await _body(reply)
        raise _refused(f"leads on more than {MAX_REDIRECTS} times")

    def _check_literal(self, url: URL) -> None:
        """Refuses a host that is an address itself, which no resolver is asked for."""
        try:
            address = ipaddress.ip_address(url.host or "")
        except ValueError:
            return
        if not self._is_allowed(address):
            raise _refused("cannot be fetched from here")

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=_PublicResolver(self._is_allowed),
                use_dns_cache=False,
                force_close=True,
                limit=AT_ONCE,
            )
            # Proxy variables are not looked at: a proxy would resolve the name anew.
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"accept": ", ".join(KINDS), "accept-encoding": "identity"},
            )
        return self._session


class _PublicResolver(AbstractResolver):
    """Names to addresses, all of which must be allowed; these are then connected to."""

    def __init__(self, is_allowed: Callable[[Address], bool]) -> None:
        self._is_allowed = is_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results: list[ResolveResult] = []
        for kind, _, proto, _, place in found:
            address = str(place[0])
            if not self._is_allowed(ipaddress.ip_address(address.split("%", 1)[0])):
                raise OSError("not a public address")
            results.append(
                ResolveResult(
                    hostname=host,
                    host=address,
                    port=int(place[1]),
                    family=kind,
                    proto=proto,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        return results

    async def close(self) -> None:
        """Nothing is held."""


async def with_pictures(
    request: GenerationRequest, fetcher: PictureFetcher | None
) -> GenerationRequest:
    """The request with every remote picture fetched.

    fetcher: None where the operator has not allowed it. Raises UsageError.
    """
    messages = request.messages or ()
    remote = [url for m in messages for url in m.images if not url.startswith("data:")]
    if not remote:
        return request
    if fetcher is None:
        raise UsageError(
            "Pictures are not fetched from the network here (--allow-image-urls); "
            "send them as data: addresses.",
            param="messages",
        )
    if len(remote) > MAX_IMAGES:
        raise UsageError(f"{len(remote)} pictures; send {MAX_IMAGES} at most.", param="messages")
    different = list(dict.fromkeys(remote))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_kept_error(fetcher.data_url(url))) for url in different]
    found: dict[str, str] = {}
    for url, task in zip(different, tasks, strict=True):
        result = task.result()
        if isinstance(result, UsageError):
            raise result
        found[url] = result
    return replace(request, messages=tuple(_fetched_message(m, found) for m in messages))


async def _kept_error(work: Awaitable[str]) -> str | UsageError:
    """What `work` gives, or the reason why not, which must not end its neighbours in a group."""
    try:
        return await work
    except UsageError as error:
        return error


def _fetched_message(message: Message, found: dict[str, str]) -> Message:
    return replace(message, images=tuple(found.get(url, url) for url in message.images))


def _parsed(url: str, *, is_relative: bool = False) -> URL:
    """An address by the parser of the client itself, so that no two of them can disagree."""
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or set(url) & set(' \\"<>'):
        raise _refused("is no plain http or https address")
    try:
        parsed = URL(url)
    except (ValueError, TypeError):
        raise _refused("is no plain http or https address") from None
    return parsed if is_relative else _checked(parsed)


def _checked(url: URL) -> URL:
    if url.scheme not in ("http", "https") or not url.host or url.user or url.password:
        raise _refused("is no plain http or https address")
    return url


async def _body(reply: aiohttp.ClientResponse) -> tuple[str, bytes]:
    """Kind and bytes of a picture."""
    kind = reply.content_type
    if kind not in KINDS or reply.headers.get("content-encoding", "identity") != "identity":
        raise _refused("leads to something that is no picture")
    data = bytearray()
    async for piece in reply.content.iter_any():
        data += piece
        if len(data) > MAX_BYTES:
            raise _refused(f"leads to more than the {MAX_BYTES >> 20} MB that a picture may have")
    return kind, bytes(data)


def _refused(reason: str) -> UsageError:
    return UsageError(f"An `image_url` {reason}.", param="messages")
