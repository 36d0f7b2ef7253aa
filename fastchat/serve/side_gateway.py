"""A gateway inside a page's process, for the models of its own endpoint file.

A page speaks the OpenAI API only; so that a file may be given to it, as published, it gets a
gateway of its own, on this machine, behind a key that nobody else has.
"""

import asyncio
import contextlib
import os
import secrets
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from fastchat.errors import UsageError
from fastchat.serve import asgi
from fastchat.serve.openai_api_server import Gateway, GatewaySettings

STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SideGateway:
    """Where it is, and its key."""

    api_url: str
    api_key: str


@contextlib.contextmanager
def side_gateway(
    file: Path | None, *, api_url: str | None, controller_url: str, timeout_s: float
) -> Generator[SideGateway | None]:
    """A gateway while the block runs; None without a file.

    Args:
        api_url: a gateway that the page was told to ask, which would take the file itself.
        controller_url: whose workers stand beside the file's models; empty for none.

    Raises:
        UsageError: both a gateway and a file are given, or no model of the file can be asked.
        DataError: the file is not what it should be.
    """
    if file is None:
        yield None
        return
    if api_url is not None:
        raise UsageError(
            "--register-api-endpoint-file and --api-url exclude each other: give the file to the "
            "server at that address (fastchat.serve.openai_api_server)."
        )
    key = secrets.token_urlsafe(32)
    gateway = Gateway(
        GatewaySettings(
            host="127.0.0.1",
            controller_address=controller_url,
            register_api_endpoint_file=file,
            api_keys=(key,),
            worker_token=os.environ.get("FASTCHAT_WORKER_TOKEN"),  # as a gateway of its own would
            worker_api_timeout=timeout_s,
        )
    )
    with _running(gateway) as port:
        yield SideGateway(api_url=f"http://127.0.0.1:{port}/v1", api_key=key)


@contextlib.contextmanager
def _running(gateway: Gateway) -> Generator[int]:
    """Serves on a free port, in a thread with an event loop of its own; gives the port."""
    import uvicorn

    sockets = asgi.bind("127.0.0.1", 0)
    asgi.listen(sockets, "127.0.0.1", 0)  # who connects from now on waits for the thread
    config = uvicorn.Config(
        gateway,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_keep_alive=asgi.KEEP_ALIVE_S,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=sockets)), name="gateway", daemon=True
    )
    thread.start()
    try:
        yield sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(STOP_TIMEOUT_S)
