"""The little of ASGI that our servers share: bodies, JSON, errors, event streams, running.

A handler is `async (Request) -> Response`; a stream is a plain loop over `send`, because a
response object per piece costs more than the piece.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastchat.errors import BodyTooLargeError, FastChatError, UpstreamTimeoutError, UsageError
from fastchat.protocol.errors import error_body, public_error
from fastchat.serve.patience import lost_s
from fastchat.serve.sockets import bind, listen
from fastchat.settings import ServerSettings

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

T = TypeVar("T")

BODY_TIMEOUT_S = 60.0
"""Within this a request's body must have arrived."""

KEEP_ALIVE_S = 75
"""Of an idle connection: longer than clients keep theirs, which would else write to one that is
being closed."""

SSE_KEEPALIVE_S = 15.0
SSE_KEEPALIVE = b": keep-alive\n\n"
SSE_STALL_S = 1.5
SSE_LINGER_S = 30.0
SSE_DONE = b"data: [DONE]\n\n"
_TICK_S = 0.5


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response; `value` is anything orjson can write."""
    return Response(orjson.dumps(value), status, headers, media_type="application/json")


def json_body(value: Any) -> bytes:
    """`value`, made of what a client sent, as a body to send on.

    Raises:
        UsageError: it is nested deeper than JSON is written here.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise UsageError("The request is nested too deeply.") from None


def told(error: BaseException, what: str = "request failed") -> FastChatError:
    """What a client is told of a failure. The log has those that were not meant for it.

    Args:
        what: failed, for the log.
    """
    shown = public_error(error)
    if shown is not error:
        log.error(what, exc_info=error)
    return shown


def error_response(error: BaseException) -> Response:
    """The reply to a request that failed before its first byte."""
    shown = told(error)
    headers = {"retry-after": str(shown.retry_after_s)} if shown.retry_after_s else None
    return json_response(error_body(shown), shown.status, headers)


def sse(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def sse_failure(error: BaseException) -> bytes:
    """The events that end a stream which failed after it began."""
    return sse_error(error) + SSE_DONE


def sse_error(error: BaseException) -> bytes:
    """The event that tells what failed."""
    return b"event: error\n" + sse(error_body(told(error, "stream failed")))


async def receive_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes | None:
    """The whole body; None when the client left before its end.

    Raises:
        BodyTooLargeError: as soon as more than `limit_bytes` are announced or read.
        UsageError: the body took longer than `BODY_TIMEOUT_S`.
    """
    large = f"The request body exceeds {limit_bytes} bytes; send less at once."
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit_bytes:
            raise BodyTooLargeError(large)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit_bytes:
                    raise BodyTooLargeError(large)
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        slow = f"The request body did not arrive within {BODY_TIMEOUT_S:.0f} seconds."
        raise UsageError(slow) from None


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body of a request that handlers get.

    Raises:
        ClientDisconnect: the client left before its end.
        BodyTooLargeError, UsageError: as `receive_body`.
    """
    body = await receive_body(request.scope, request.receive, limit_bytes)
    if body is None:
        raise ClientDisconnect
    return body


def parse_json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`.

    Raises:
        UsageError: not UTF-8, not JSON, nested too deeply, or not an object.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "UTF-8" in error.msg:
            raise UsageError("The request body is not valid UTF-8.") from None
        raise UsageError(f"The request body is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise UsageError("The request body must be a JSON object.")
    return value


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


class EventStream(Response):
    """Sends server-sent events as they come; ends the source when the client leaves.

    The first event is awaited before the headers go out, so that an error that comes
    before it is a plain error reply with its own status; a first event that takes longer
    than a keep-alive period gives this up. A comment line keeps the connection open while
    nothing comes. A client that takes nothing for `SSE_STALL_S`, with all buffers full,
    loses the source; it still gets what is under way and an error event, if it reads on.

    Args:
        events: an async generator; it is closed in the end, come what may.
        keepalive: the comment; None for a format without comments.
        failure: what is sent in the end when the source fails after the first event.
        late_headers: gives those headers that are known with the first event.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        headers: dict[str, str] | None = None,
        media_type: str = "text/event-stream; charset=utf-8",
        keepalive: bytes | None = SSE_KEEPALIVE,
        failure: Callable[[BaseException], bytes] = sse_failure,
        late_headers: Callable[[], dict[str, str]] = dict,
    ) -> None:
        self.events = events
        self.late_headers = late_headers
        self.keepalive = keepalive
        self.failure = failure
        self.background = None
        self.status_code = 200
        self.raw_headers = [
            (b"content-type", media_type.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *_encoded(headers or {}),
        ]
        self._started = False
        self._is_sending = False
        self._changed_at = 0.0
        """When the sender last began to wait, for the source or for the client."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self._changed_at = loop.time()
        sender = asyncio.ensure_future(self._send_events(scope, receive, send))
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            while not (sender.done() or gone.done()):
                began = loop.time()
                await asyncio.wait(
                    (sender, gone), timeout=_TICK_S, return_when=asyncio.FIRST_COMPLETED
                )
                waited_s = loop.time() - self._changed_at
                if sender.done() or gone.done():
                    break
                if self._is_sending and (ours_s := lost_s(loop.time() - began, _TICK_S)):
                    self._changed_at += ours_s
                elif self._is_sending and waited_s > SSE_STALL_S:
                    await _cancelled(sender)
                    await self._end_for_slow_reader(send, gone)
                elif not self._is_sending and waited_s > SSE_KEEPALIVE_S and self.keepalive:
                    self._changed_at = loop.time()
                    await self._start(send)
                    await send(_part(self.keepalive))
        finally:
            await _cancelled(gone, sender)
        if not sender.cancelled() and (error := sender.exception()):
            raise error

    async def _send_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        events = self.events
        now = asyncio.get_running_loop().time
        try:
            async for event in events:
                self._is_sending, self._changed_at = True, now()
                if not self._started:
                    await self._start(send)
                await send({"type": "http.response.body", "body": event, "more_body": True})
                self._is_sending, self._changed_at = False, now()
            await self._start(send)
        except Exception as error:
            self._is_sending, self._changed_at = True, now()
            if not self._started:
                self._started = True
                await error_response(error)(scope, receive, send)
                return
            await send(_part(self.failure(error)))
        finally:
            if hasattr(events, "aclose"):
                await events.aclose()  # type: ignore[attr-defined]
        await send(_part(b"", more=False))

    async def _start(self, send: Send) -> None:
        if not self._started:
            self._started = True
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers + _encoded(self.late_headers()),
                }
            )

    async def _end_for_slow_reader(self, send: Send, gone: asyncio.Future[None]) -> None:
        """Says that the stream was stopped, if the client reads on within a while."""
        log.warning("stream stopped: the client does not read")
        error = UpstreamTimeoutError("The stream was stopped because it was not read in time.")
        last = asyncio.ensure_future(send(_part(self.failure(error), more=False)))
        try:
            await asyncio.wait(
                (last, gone), timeout=SSE_LINGER_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await _cancelled(last)


def _part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancels and waits until they have cleaned up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves before it is done.

    Raises:
        ClientDisconnect: the client has left. The request's body must have been read before.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        await _cancelled(task, gone)


async def disconnected(receive: Receive) -> None:
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
        KeyboardInterrupt: the server was ended by Ctrl-C.
    """
    sockets = bind(settings.host, settings.port)
    listen(sockets, settings.host, settings.port)
    run_loop(serve_sockets(app, settings, sockets=sockets))


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Runs `main` on the fastest event loop there is."""
    from uvicorn.loops.auto import auto_loop_factory

    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return runner.run(main)


async def serve_sockets(
    app: ASGIApp,
    settings: ServerSettings,
    *,
    sockets: list[socket.socket],
    closing: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """`serve` on sockets that are bound already.

    Args:
        closing: awaited after the signal, while the server still answers.
    """
    import uvicorn

    class Server(uvicorn.Server):
        """Ends with status 0 after SIGTERM, where uvicorn would raise the signal again."""

        interrupted = False

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.should_exit and sig == signal.SIGINT:
                self.force_exit = True
            self.should_exit = True
            self.interrupted = self.interrupted or sig == signal.SIGINT

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            address = (sockets or [])[0].getsockname()
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            scheme = "https" if settings.ssl else "http"
            log.info("Uvicorn running on %s://%s:%d", scheme, host, address[1])

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            if closing is not None:
                await closing()
            await super().shutdown(sockets)

    if settings.ssl and not (settings.ssl_keyfile and settings.ssl_certfile):
        raise UsageError("--ssl needs SSL_KEYFILE and SSL_CERTFILE to name the two files.")
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,  # whoever sends X-Forwarded-For is not believed
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=10,
        ssl_keyfile=settings.ssl_keyfile if settings.ssl else None,
        ssl_certfile=settings.ssl_certfile if settings.ssl else None,
    )
    server = Server(config)
    await server.serve(sockets=sockets)
    if server.interrupted:
        raise KeyboardInterrupt
