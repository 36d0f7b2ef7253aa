"""What reaches the page's server and what its replies carry: hosts, origins, routes, headers.

The page needs few of the many routes its library opens: no uploads, no files, no proxy. The
content policy lets a browser load from this server alone, so that nothing in a model's answer
makes it call anybody else.
"""

import asyncio
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_LIMIT_BYTES = 4 * 1024 * 1024

# The page's own script and styles stand inside the document, and so does its configuration.
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "SAMEORIGIN",
}

OPEN_PATHS = frozenset(
    {
        "/config",
        "/favicon.ico",
        "/login",
        "/logout",
        "/manifest.json",
        "/robots.txt",
        "/theme.css",
        "/gradio_api/app_id",
        "/gradio_api/cancel",
        "/gradio_api/info",
        "/gradio_api/login_check",
        "/gradio_api/queue/data",
        "/gradio_api/queue/join",
        "/gradio_api/reset",
        "/gradio_api/startup-events",
        "/gradio_api/theme.css",
        "/gradio_api/token",
        "/gradio_api/user",
    }
)
OPEN_PREFIXES = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
UPLOAD_PATH = "/gradio_api/upload"
FILE_PREFIX = "/gradio_api/file="
ANALYTICS = "https://www.googletagmanager.com https://*.google-analytics.com"
COOKIE_S = 365 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a page needs beyond a chat's routes."""

    prefixes: tuple[str, ...] = ()
    upload_bytes: int = 0
    """Of one request with files; 0 takes none, and shows none."""
    analytics: bool = False
    """The page loads Google Analytics, and tells it of visits."""
    visitor_cookie: str = ""
    """Name of a cookie that tells browsers apart; empty for none."""

    def policy(self) -> str:
        """The content policy of the page."""
        if not self.analytics:
            return POLICY
        wider = POLICY
        for kind in ("script-src 'self'", "connect-src 'self'", "img-src 'self'"):
            wider = wider.replace(kind, f"{kind} {ANALYTICS}")
        return wider


CHAT_ONLY = Opening()


class Guard:
    """Lets through what a browser on our own page asks for, and nothing else."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str],
        any_host: bool,
        opening: Opening = CHAT_ONLY,
    ) -> None:
        """
        Args:
            hosts: names, without ports, under which the page may be reached besides those of
                this machine.
            any_host: reached from outside under names that nobody told us.
        """
        self.app = app
        self.hosts = {host.lower() for host in hosts}
        self.any_host = any_host
        self.opening = opening
        self._headers = HEADERS | {"content-security-policy": opening.policy()}
        self._requests: set[asyncio.Task[Any]] = set()
        self._ending = False

    async def end_streams(self) -> None:
        """Ends the event streams of open pages, which would hold up a shutdown, and begins none."""
        self._ending = True
        for request in self._requests:
            request.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        if refusal := self._refusal(scope):
            status, text = refusal
            await PlainTextResponse(text, status, self._headers)(scope, receive, send)
            return
        if self._ending:  # who was just being connected would hold up the end as well
            headers = {**self._headers, "connection": "close", "retry-after": "5"}
            await PlainTextResponse("The server is ending.\n", 503, headers)(scope, receive, send)
            return

        streaming = False

        async def send_with_headers(message: Message) -> None:
            nonlocal streaming
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                if cookie := self._new_cookie(scope):
                    headers.append("set-cookie", cookie)
            await send(message)
            streaming = message.get("more_body", False)

        request = asyncio.current_task()
        assert request is not None
        self._requests.add(request)
        try:
            await self.app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            if not self._ending:
                raise
            if streaming:
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._requests.discard(request)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and text for a request that must not pass; None for one that may."""
        headers = Headers(scope=scope)
        host = host_of(headers.get("host", ""))
        if not self._is_ours(host):
            return 403, "This name is not known here; name it with --allowed-hosts.\n"
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and not self._same_origin(headers):
            return 403, "Requests from other sites are refused.\n"
        path = scope["path"]
        if not (is_open(path) or self._opens(path)):
            return 404, "Not found.\n"
        if scope["method"] == "POST":
            announced = headers.get("content-length", "")
            if not announced.isdecimal():
                return 411, "The length of the request must be announced.\n"
            uploads = path.rstrip("/") == UPLOAD_PATH
            if int(announced) > (self.opening.upload_bytes if uploads else BODY_LIMIT_BYTES):
                return 413, "The request is too large.\n"
        return None

    def _opens(self, path: str) -> bool:
        """Whether this page, though not every page, asks for `path`."""
        prefixes = self.opening.prefixes
        if self.opening.upload_bytes:
            prefixes += (UPLOAD_PATH, FILE_PREFIX)
        return path.startswith(prefixes) and ".." not in path

    def _new_cookie(self, scope: Scope) -> str:
        """The cookie for a browser that opens the page for the first time; else empty."""
        name = self.opening.visitor_cookie
        if not name or scope["path"] != "/" or f"{name}=" in Headers(scope=scope).get("cookie", ""):
            return ""
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        value = secrets.token_urlsafe(32)
        return f"{name}={value}; Path=/; Max-Age={COOKIE_S}; HttpOnly; SameSite=Lax{secure}"

    def _is_ours(self, host: str) -> bool:
        """Whether `host` is a name of this page. Keeps foreign names that resolve to us out."""
        return self.any_host or host in self.hosts or is_loopback(host)

    def _same_origin(self, headers: Headers) -> bool:
        """Whether the page itself sends this, as far as a browser tells."""
        origin = headers.get("origin")
        if origin is None:
            return True
        ours = {headers.get("host", ""), headers.get("x-forwarded-host", ""), *self.hosts}
        return bool({urlsplit(origin).netloc, host_of(urlsplit(origin).netloc)} & (ours - {""}))


def is_open(path: str) -> bool:
    """Whether the page itself ever asks for `path`."""
    if path == "/" or path.rstrip("/") in OPEN_PATHS:
        return True
    return path.startswith(OPEN_PREFIXES) and ".." not in path


def host_of(netloc: str) -> str:
    """The name in `netloc`, without its port."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").lower()
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether `host` can only ever mean this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
