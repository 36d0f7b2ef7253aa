"""A worker's `/worker_generate_stream` passed through by the controller, for outside clients."""

import asyncio
import time
from collections.abc import AsyncIterator

import orjson

from fastchat.errors import ErrorCode, FastChatError
from fastchat.protocol.errors import SERVER_ERROR_MSG
from fastchat.serve.connection import Connection
from fastchat.serve.endpoints import token_for
from fastchat.serve.router import Router
from fastchat.serve.upstream import Origins


async def worker_chunks(
    router: Router, origins: Origins, *, model: str, body: bytes, quiet_s: float, token: str | None
) -> AsyncIterator[bytes]:
    """The bytes of the chosen worker's reply; a failure is one chunk of the published format.

    Args:
        quiet_s: seconds without a byte after which the worker is given up.
        token: of the cluster, for its workers.
    """
    endpoint = router.pick(model, now=time.monotonic())
    if endpoint is None:
        yield _error_chunk("no worker serves this model", ErrorCode.CONTROLLER_NO_WORKER)
        return
    router.start(endpoint.name)
    connection: Connection | None = None
    try:
        async with asyncio.timeout(quiet_s):
            origin = origins.of(endpoint.name, bearer=token_for(endpoint, token))
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
    except (FastChatError, TimeoutError):
        router.report_failure(endpoint.name, now=time.monotonic())
        reason = "the worker cannot be reached or stopped answering"
        yield _error_chunk(reason, ErrorCode.CONTROLLER_WORKER_TIMEOUT)
    finally:
        router.finish(endpoint.name)
        if connection is not None:
            connection.release()


def _error_chunk(reason: str, code: ErrorCode) -> bytes:
    chunk = {"text": f"{SERVER_ERROR_MSG}\n\n({reason})", "error_code": int(code)}
    return orjson.dumps(chunk) + b"\0"
