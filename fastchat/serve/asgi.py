"""The little of ASGI that our servers share: bodies, JSON, errors, event streams, running.

A handler is `async (Request) -> Response`; a stream is a plain loop over `send`, because a
response object per piece costs more than the piece.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fastchat.errors import BodyTooLargeError, FastChatError, UsageError
from fastchat.protocol.errors import error_body, public_error
from fastchat.settings import ServerSettings

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

SSE_KEEPALIVE_S = 15.0
SSE_DONE = b"data: [DONE]\n\n"


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response; `value` is anything orjson can write."""
    return Response(orjson.dumps(value), status, headers, media_type="application/json")


def error_response(error: BaseException) -> Response:
    """The reply to a request that failed before its first byte."""
    shown = public_error(error)
    if shown is not error:
        log.error("request failed", exc_info=error)
    headers = {"retry-after": str(shown.retry_after_s)} if shown.retry_after_s else None
    return json_response(error_body(shown), shown.status, headers)


def sse(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def sse_error(error: BaseException) -> bytes:
    """The event that ends a stream which failed after it began."""
    shown = public_error(error)
    if shown is not error:
        log.error("stream failed", exc_info=error)
    return b"event: error\n" + sse(error_body(shown))


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body.

    Raises:
        BodyTooLargeError: as soon as more than `limit_bytes` are announced or read.
    """
    message = f"The request body exceeds {limit_bytes} bytes; send less at once."
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise BodyTooLargeError(message)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit_bytes:
            raise BodyTooLargeError(message)
        parts.append(part)
    return b"".join(parts)


def parse_json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`.

    Raises:
        UsageError: not UTF-8, not JSON, nested too deeply, or not an object.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"The request body is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise UsageError("The request body must be a JSON object.")
    return value


class EventStream(Response):
    """Sends server-sent events as they come; ends the source when the client leaves.

    The first event is awaited before the headers go out, so that an error that comes
    before it is a plain error reply with its own status. A comment line keeps the connection
    open while nothing comes.
    """

    def __init__(self, events: AsyncIterator[bytes], *, headers: dict[str, str] | None = None):
        self.events = events
        self.background = None
        self.status_code = 200
        self.raw_headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ] + [(k.encode(), v.encode()) for k, v in (headers or {}).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = asyncio.ensure_future(self._send_events(scope, receive, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((sender, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            sender.cancel()
            await asyncio.gather(sender, gone, return_exceptions=True)

    async def _send_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        events = self.events
        try:
            try:
                first = await anext(events)
            except StopAsyncIteration:
                first = b""
            except FastChatError as error:
                await error_response(error)(scope, receive, send)
                return
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            await send({"type": "http.response.body", "body": first, "more_body": True})
            try:
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except Exception as error:
                tail = sse_error(error) + SSE_DONE
                await send({"type": "http.response.body", "body": tail, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if hasattr(events, "aclose"):
                await events.aclose()  # type: ignore[attr-defined]


async def _disconnected(receive: Receive) -> None:
    """Returns when the client has gone. The request's body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


def answering(handler: Handler) -> Handler:
    """`handler`, with every failure turned into an error reply."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            return error_response(error)

    return answer


def serve(app: ASGIApp, settings: ServerSettings) -> None:
    """Runs `app` until a signal; prints `Uvicorn running on …` when the port is open.

    Raises:
        UsageError: the address cannot be bound, or TLS is asked for without its files.
    """
    import uvicorn

    if settings.ssl and not (settings.ssl_keyfile and settings.ssl_certfile):
        raise UsageError("--ssl needs SSL_KEYFILE and SSL_CERTFILE to name the two files.")
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=10,
        ssl_keyfile=settings.ssl_keyfile if settings.ssl else None,
        ssl_certfile=settings.ssl_certfile if settings.ssl else None,
    )
    sockets = bind(settings.host, settings.port)
    uvicorn.Server(config).run(sockets=sockets)


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets; for `localhost` on both address families where they exist.

    Raises:
        UsageError: nothing could be bound; the message says why.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    reason: OSError | None = None
    for family, kind, proto, _, address in sorted(found, key=lambda item: item[0]):
        try:
            listener = socket.socket(family, kind, proto)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if sockets and port == 0:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            listener.bind(address)
            sockets.append(listener)
        except OSError as error:
            reason = error
    if not sockets:
        why = reason.strerror if reason else "no such address"
        raise UsageError(f"Cannot listen on {host}:{port}: {why}; choose another --port.")
    return sockets
