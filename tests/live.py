"""Servers inside a test's own event loop, on ports that the system chooses."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import uvicorn
from starlette.types import ASGIApp

LIMIT_S = 180.0
"""For what must happen; a machine that is short of time may take long over it."""
KEEP_ALIVE_S = 3600
"""Of an idle connection. One that is closed while a client writes to it fails the client, which
takes no more than a test that stood still for uvicorn's own 5 s."""


@contextlib.asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Serves `app` on a free port of 127.0.0.1; gives its base URL."""
    # Named as TCP, or asyncio leaves Nagle's algorithm on, which costs 40 ms a request.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started or task.done())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


async def until(holds: Callable[[], object]) -> None:
    """Returns when `holds` is true; fails after `LIMIT_S`."""
    async with asyncio.timeout(LIMIT_S):
        while not holds():
            await asyncio.sleep(0.01)
