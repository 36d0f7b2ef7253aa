"""The HTTP session that an endpoint is asked through: its key, its patience, the way to it."""

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from fastchat.llm_judge.endpoints import Endpoint


def open_session(endpoint: "Endpoint", *, timeout_s: float) -> "ClientSession":
    """A session for one endpoint, through the environment's proxy where there is one for it.

    aiohttp's `trust_env` looks netrc and proxies up for every request, in two calls of another
    thread, for which a burst of requests then waits: so only where a proxy is on the way.
    """
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=timeout_s or None),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={**endpoint.headers, "content-type": "application/json"},
        trust_env=is_behind_proxy(endpoint.api_base),
    )


def is_behind_proxy(url: str) -> bool:
    """Whether the environment names a proxy for an address; this machine needs none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme in getproxies() and not _is_here(host) and not proxy_bypass(host)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
