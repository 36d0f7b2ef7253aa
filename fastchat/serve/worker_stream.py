"""Streams that the controller sends: its watch lines, and a worker's reply passed through."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fastchat.errors import ErrorCode, FastChatError
from fastchat.serve.router import Router
from fastchat.serve.upstream import Connection, Origins

NOTICE = "**THE SERVER COULD NOT ANSWER. PLEASE TRY AGAIN.**"


class LineStream(Response):
    """Sends what a source yields until it ends or the client leaves; then closes the source."""

    content_type = b"application/x-ndjson"

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self.source = source
        self.status_code = 200
        self.background = None
        self.raw_headers = [(b"content-type", self.content_type), (b"cache-control", b"no-cache")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = asyncio.ensure_future(self._send_all(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((sender, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sender, gone):
                task.cancel()
            await asyncio.gather(sender, gone, return_exceptions=True)
            if isinstance(self.source, AsyncGenerator):
                await self.source.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for data in self.source:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class WorkerStream(LineStream):
    """A worker's `/worker_generate_stream` reply; failures are one chunk of that format."""

    content_type = b"application/octet-stream"

    def __init__(
        self, router: Router, origins: Origins, model: str, body: bytes, *, quiet_s: float
    ) -> None:
        super().__init__(_worker_chunks(router, origins, model, body, quiet_s=quiet_s))


async def _worker_chunks(
    router: Router, origins: Origins, model: str, body: bytes, *, quiet_s: float
) -> AsyncIterator[bytes]:
    """The bytes of the chosen worker's reply."""
    endpoint = router.pick(model, now=time.monotonic())
    if endpoint is None:
        yield _error_chunk("no worker serves this model", ErrorCode.CONTROLLER_NO_WORKER)
        return
    router.start(endpoint.name)
    connection: Connection | None = None
    try:
        async with asyncio.timeout(quiet_s):
            origin = origins.of(endpoint.name)
            connection = await origin.send("POST", "/worker_generate_stream", body)
        if connection.status != 200:
            reason = f"the worker answered {connection.status}"
            yield _error_chunk(reason, ErrorCode.CONTROLLER_WORKER_TIMEOUT)
            return
        while True:
            async with asyncio.timeout(quiet_s):
                data = await connection.read()
            if not data:
                break
            yield data
        connection.release()
        connection = None
    except (FastChatError, TimeoutError):
        router.report_failure(endpoint.name, now=time.monotonic())
        reason = "the worker cannot be reached or stopped answering"
        yield _error_chunk(reason, ErrorCode.CONTROLLER_WORKER_TIMEOUT)
    finally:
        router.finish(endpoint.name)
        if connection is not None:
            connection.abort()


def _error_chunk(reason: str, code: ErrorCode) -> bytes:
    chunk = {"text": f"{NOTICE}\n\n({reason})", "error_code": int(code)}
    return orjson.dumps(chunk) + b"\0"


async def _disconnected(receive: Receive) -> None:
    """Returns when the client has gone. The request's body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass
