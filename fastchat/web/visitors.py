"""Who is at the page: the address, behind trusted proxies only, and the name it is stored under."""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastchat.errors import UsageError

if TYPE_CHECKING:
    import gradio as gr

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
COOKIE = "fastchat_visitor"
"""Names a browser to itself: 256 random bits that only our server sets and reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """A person at an open page, as far as the page can tell."""

    session: str
    """Names the open page."""
    address: str = ""
    voter: str = ""
    """What is stored instead of the address, or the address where the operator wants it."""
    cookie: str = ""
    """Names the browser; empty for programs."""


class Visitors:
    """Tells visitors apart."""

    def __init__(
        self, *, key: bytes, proxies: Sequence[Network] = (), stores_addresses: bool = False
    ) -> None:
        """
        Args:
            key: of the hash that stands for an address; the same one after a restart.
            proxies: whose X-Forwarded-For is believed.
        """
        self.key = key
        self.proxies = tuple(proxies)
        self.stores_addresses = stores_addresses

    def of(self, request: "gr.Request") -> Visitor:
        """The visitor who sends `request`."""
        peer = getattr(request.client, "host", None) or ""
        forwarded = request.headers.get("x-forwarded-for", "")
        address = client_address(peer, forwarded, self.proxies)
        return Visitor(
            session=str(request.session_hash),
            address=address,
            voter=address if self.stores_addresses else pseudonym(address, self.key),
            cookie=cookie_in(request.headers.get("cookie", "")),
        )


def pseudonym(address: str, key: bytes) -> str:
    """What is stored instead of an address: a keyed hash."""
    return hmac.new(key, address.encode(), hashlib.sha256).hexdigest()[:32]


def cookie_in(header: str) -> str:
    """Our cookie in a Cookie header; empty when there is none."""
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value[:128]
    return ""


def client_address(peer: str, forwarded: str, proxies: Sequence[Network]) -> str:
    """The address nearest to us that is no trusted proxy's."""
    address = peer
    hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
    while hops and _is_in(address, proxies):
        address = hops.pop()
    return address if address == peer or _parsed(address) else peer


def read_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Addresses and networks such as 10.0.0.0/8.

    Raises:
        UsageError: one is neither.
    """
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise UsageError(f"--trusted-proxies: {error}.") from None


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)
