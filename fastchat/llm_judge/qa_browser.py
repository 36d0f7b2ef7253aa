"""A page to look through questions, answers, references and judgments.

python3 -m fastchat.llm_judge.qa_browser --bench-name fastchat_bench
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastchat.llm_judge.bench_settings import BenchSettings
from fastchat.llm_judge.extras import needing_extras
from fastchat.settings import run_command

if TYPE_CHECKING:
    import socket

    from fastchat.web.security import Guard

PROG = "python3 -m fastchat.llm_judge.qa_browser"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserSettings(BenchSettings):
    """Shows questions, answers and judgments in a browser."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the page to the network."""
    port: int = 7860
    """Port to listen on; 0 takes a free one."""
    share: bool = False
    """Give the page a public address as well."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the page until a signal."""
    return run_command(BrowserSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: BrowserSettings) -> None:
    from fastchat import logs
    from fastchat.serve.asgi import bind

    logs.setup(debug=settings.debug)
    settings.bench.questions()  # a wrong name is told before a port is taken
    with ExitStack() as opened:
        sockets = [opened.enter_context(s) for s in bind(settings.host, settings.port)]
        asyncio.run(_serve(settings, sockets))


async def _serve(settings: BrowserSettings, sockets: "list[socket.socket]") -> None:
    from fastchat.serve.asgi import serve_sockets
    from fastchat.settings import ServerSettings
    from fastchat.web.app import open_tunnel

    app = build_app(settings)
    port = sockets[0].getsockname()[1]
    print(f"Open http://{settings.host}:{port}", flush=True)
    if settings.share:
        open_tunnel(port)
    server = ServerSettings(host=settings.host, port=port)
    await serve_sockets(app, server, sockets=sockets, closing=app.end_streams)


def build_app(settings: BrowserSettings) -> "Guard":
    """The page as an ASGI application; it must be built inside a running event loop."""
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))
    import gradio as gr
    from fastapi import FastAPI

    from fastchat.llm_judge.browser_page import CSS, KEYS, build_page
    from fastchat.llm_judge.browser_views import load_shelf
    from fastchat.web.app import theme
    from fastchat.web.security import Guard, is_loopback

    app = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        app,
        build_page(load_shelf(settings.bench), settings.bench_name),
        path="/",
        footer_links=[],
        run_history=False,
        app_kwargs={"docs_url": None, "redoc_url": None},
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=CSS,
        head=f"<script>{KEYS}</script>",
    )
    return Guard(app, hosts=(), any_host=settings.share or not is_loopback(settings.host))


if __name__ == "__main__":
    sys.exit(main())
