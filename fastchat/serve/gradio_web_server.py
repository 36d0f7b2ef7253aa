"""The page on which people chat with one model at a time.

python3 -m fastchat.serve.gradio_web_server
"""

import os
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from fastchat import logs
from fastchat.errors import UsageError
from fastchat.serve import asgi
from fastchat.settings import CommaList, Env, ServerSettings, alias, run_command

if TYPE_CHECKING:
    from fastchat.web.app import PageSettings
    from fastchat.web.guard import Moderation
    from fastchat.web.security import Guard

FIRST_PORT = 7860
LAST_PORT = 7959
PROG = "python3 -m fastchat.serve.gradio_web_server"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings(ServerSettings):
    """Serves the chat page for one model at a time."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]  # unset: search
    """Port to listen on; without it the first free one from 7860 on."""
    share: bool = False
    """Also open a public address through Gradio's tunnel."""
    api_url: Annotated[str | None, Env("FASTCHAT_API_URL")] = None
    """The OpenAI-compatible server to ask. Without it: http://localhost:8000/v1 when that
    answers, else the workers that the controller names."""
    api_key: Annotated[str | None, Env("FASTCHAT_API_KEY")] = None
    """Key for that server. Better given by the environment than on the command line."""
    controller_url: Annotated[str, alias("--controller")] = "http://localhost:21001"
    """The controller, asked when no --api-url is given; empty for none."""
    concurrency_count: Annotated[int, alias("--concurrency")] = 200
    """Answers at a time; further readers wait in a queue."""
    model_list_mode: Literal["once", "reload"] = "reload"
    """Follow the list of models as it changes, or keep the first one that was had."""
    show_terms_of_use: Annotated[bool, alias("--show-terms")] = False
    """Ask every reader to agree to the terms first."""
    gradio_auth_path: Path | None = None
    """File of name:password, by commas or lines; only these people get in."""
    gradio_root_path: str = ""
    """Path or address under which a proxy shows the page."""
    allowed_hosts: CommaList = ()
    """Further names under which the page is reached, for example behind a proxy."""
    input_char_len_limit: Annotated[int, Env("FASTCHAT_INPUT_CHAR_LEN_LIMIT")] = 12_000
    """Characters of one message; the rest is cut with a notice."""
    api_timeout_s: Annotated[float, Env("FASTCHAT_WORKER_API_TIMEOUT")] = 100.0
    """The longest silence in an answer, in seconds."""
    moderate: bool = False
    """Look at every message before a model does, by --moderation-file or by OPENAI_API_KEY."""
    moderation_file: Path | None = None
    """With --moderate: regular expressions, one a line, of what is not sent to models."""
    moderation_fail: Literal["open", "closed"] = "closed"
    """Whether a message passes when the moderation service cannot be asked."""
    moderation_url: str | None = None
    """Another server with OpenAI's moderation API."""
    register_api_endpoint_file: Annotated[Path | None, alias("--register")] = None
    """JSON file of models that others serve, shown beside those of the controller; keys may
    stand in the environment."""
    use_remote_storage: bool = False
    """Of pictures, which gradio_web_server_multi takes and this page does not; refused here."""


W = TypeVar("W", bound=WebSettings)


def main(argv: list[str] | None = None) -> int:
    """Runs the page; gives the exit status."""
    return run_command(WebSettings, run, argv, prog=PROG)


def run(settings: WebSettings) -> None:
    """Builds the page and serves it until a signal."""
    if settings.use_remote_storage:
        raise UsageError(
            "--use-remote-storage is for pictures, which this page does not take: "
            "start fastchat.serve.gradio_web_server_multi --vision-arena."
        )
    with with_endpoint_file(settings) as settings:
        page_settings = read_page_settings(settings)
        logs.setup("gradio_web_server.log", debug=settings.debug)
        sockets = bind_page(settings.host, settings.port)
        asgi.run_loop(serve_page(page_settings, settings, sockets))


@contextmanager
def with_endpoint_file(settings: W) -> Generator[W]:
    """`settings` of a page that asks a gateway of its own, where it has an endpoint file."""
    from fastchat.serve.side_gateway import side_gateway

    with side_gateway(
        settings.register_api_endpoint_file,
        api_url=settings.api_url,
        controller_url=settings.controller_url,
        timeout_s=settings.api_timeout_s,
    ) as side:
        if side is None:
            yield settings
        else:
            yield replace(settings, api_url=side.api_url, api_key=side.api_key)


def read_page_settings(settings: WebSettings) -> "PageSettings":
    """What the page is told, checked as far as it can be before the page is built.

    Raises:
        UsageError: a value that cannot work.
    """
    from fastchat.web.app import PageSettings, read_accounts
    from fastchat.web.models import Source
    from fastchat.web.security import is_loopback

    for flag, url in (
        ("--api-url", settings.api_url),
        ("--controller-url", settings.controller_url),
    ):
        if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
            raise UsageError(f"{flag} {url!r}: give an address like http://localhost:8000/v1.")
    for flag, value in (
        ("--concurrency-count", settings.concurrency_count),
        ("--input-char-len-limit", settings.input_char_len_limit),
        ("--api-timeout-s", settings.api_timeout_s),
    ):
        if value <= 0:
            raise UsageError(f"{flag} {value}: must be above 0.")
    path = settings.gradio_auth_path
    return PageSettings(
        source=Source(
            api_url=settings.api_url,
            controller_url=settings.controller_url,
            api_key=settings.api_key,
            timeout_s=settings.api_timeout_s,
            keeps_first_list=settings.model_list_mode == "once",
        ),
        concurrency=settings.concurrency_count,
        message_limit=settings.input_char_len_limit,
        show_terms=settings.show_terms_of_use,
        accounts=read_accounts(path) if path else (),
        root_path=settings.gradio_root_path,
        hosts=settings.allowed_hosts,
        any_host=settings.share or not is_loopback(settings.host),
        moderation=read_moderation(settings),
    )


def read_moderation(settings: WebSettings) -> "Moderation | None":
    """Who looks at messages first, if anybody does.

    Raises:
        UsageError: nobody can, or the file of patterns cannot be used.
    """
    from fastchat.web.guard import Moderation, OpenAIModerator, read_patterns

    if not settings.moderate:
        return None
    if settings.moderation_file is not None:
        moderator = read_patterns(settings.moderation_file)
    elif key := os.environ.get("OPENAI_API_KEY"):
        moderator = OpenAIModerator(api_key=key, base_url=settings.moderation_url)
    else:
        raise UsageError("--moderate needs --moderation-file FILE or OPENAI_API_KEY.")
    return Moderation(moderator=moderator, on_failure=settings.moderation_fail)


def bind_page(host: str, port: int | None) -> list[socket.socket]:
    """Sockets on `port`, or on the first free port of the published range.

    Raises:
        UsageError: that port, or every port of the range, is taken.
    """
    if port is not None:
        return asgi.bind(host, port)
    for candidate in range(FIRST_PORT, LAST_PORT):
        with suppress(UsageError):
            return asgi.bind(host, candidate)
    return asgi.bind(host, LAST_PORT)


async def serve_page(
    page_settings: "PageSettings", settings: WebSettings, sockets: list[socket.socket]
) -> None:
    """Builds the page, which wants a running loop, and serves it."""
    from fastchat.web.app import build_app

    await serve_guarded(build_app(page_settings), settings, sockets, share=settings.share)


async def serve_guarded(
    app: "Guard", settings: ServerSettings, sockets: list[socket.socket], *, share: bool
) -> None:
    """Serves a page until a signal; where it is shared, under a public address as well."""
    from fastchat.web.app import open_tunnel

    if share:
        open_tunnel(sockets[0].getsockname()[1])
    await asgi.serve_sockets(app, settings, sockets=sockets, closing=app.end_streams)


if __name__ == "__main__":
    sys.exit(main())
