"""The page as one ASGI application: tabs, theme, terms, log-in, and the guard in front."""

import html
import logging
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastchat.errors import UsageError
from fastchat.web.models import ModelDirectory, Source
from fastchat.web.pane import Panes
from fastchat.web.security import CHAT_ONLY, Guard, Opening
from fastchat.web.texts import LANGUAGES, Texts, load_texts

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI
    from gradio.themes import Base

    from fastchat.web.guard import Moderation

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
STATUS_S = 10.0
"""Published: how often a reader who waits in the queue is told its place."""
UPLOADS_S = (600, 3600)
"""How often uploads are looked through, and the age at which they are removed."""
SPARE_JOBS = 100
"""Room for listings and stops beside the answers."""
FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
FONT_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSettings:
    """What the page is like, apart from where it listens."""

    source: Source
    concurrency: int = 200
    """Answers at a time, over all readers; more wait in the queue."""
    message_limit: int = 12_000
    """Characters of one message."""
    show_terms: bool = False
    accounts: tuple[tuple[str, str], ...] = ()
    """Names and passwords; empty lets everybody in."""
    root_path: str = ""
    """The path, or the whole address, under which a proxy shows the page."""
    hosts: tuple[str, ...] = ()
    """Names under which the page is reached, besides those of this machine."""
    any_host: bool = False
    password: str = ""
    """One that lets in under any name, beside `accounts`."""
    language: str = "en"
    moderation: "Moderation | None" = None
    """What looks at messages before a model does."""

    @property
    def texts(self) -> Texts:
        """The words of the page in its language."""
        return load_texts(LANGUAGES[self.language])

    def admits(self, name: str, password: str) -> bool:
        """Whether these are credentials of the page."""
        known = [word for other, word in self.accounts if other == name]
        known += [self.password] if self.password else []
        given = password.encode()
        return any([secrets.compare_digest(word.encode(), given) for word in known])


def build_app(settings: PageSettings) -> Guard:
    """The page, ready to be served."""
    from fastapi import FastAPI

    texts = settings.texts
    directory = ModelDirectory(settings.source, now=time.monotonic)

    @asynccontextmanager
    async def lifespan(_: "FastAPI") -> AsyncIterator[None]:
        yield
        await directory.close()
        if settings.moderation is not None:
            await settings.moderation.moderator.close()

    panes = Panes(
        directory,
        texts.notice,
        message_limit=settings.message_limit,
        moderation=settings.moderation,
    )
    app = FastAPI(openapi_url=None, lifespan=lifespan)
    return mounted(app, build_page(panes, texts, settings), settings)


def mounted(
    app: "FastAPI",
    page: "gr.Blocks",
    settings: PageSettings,
    *,
    opening: Opening = CHAT_ONLY,
    head: str = "",
) -> Guard:
    """`app` with the page at its root, and the guard in front of it.

    Args:
        head: further elements of the document's head.
    """
    import gradio as gr

    style = [(FOLDER / name).read_text("utf-8") for name in ("page.css", "arena.css")]
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        app_kwargs={"docs_url": None, "redoc_url": None},
        auth=settings.admits if settings.accounts or settings.password else None,
        root_path=settings.root_path or None,
        max_file_size=opening.upload_bytes or None,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css="\n".join(style),
        head=f"<script>{(FOLDER / 'page.js').read_text('utf-8')}</script>{head}",
    )
    proxy = urlsplit(settings.root_path).hostname
    hosts = (*settings.hosts, proxy) if proxy else settings.hosts
    return Guard(app, hosts=hosts, any_host=settings.any_host, opening=opening)


def open_tunnel(port: int) -> None:
    """Gives the page on `port` a public address, and says which, in a while.

    On a thread of its own: what Gradio fetches and starts for it may take a minute, and neither
    the page nor its end wait for that.
    """
    threading.Thread(target=_open_tunnel, args=(port,), name="tunnel", daemon=True).start()


def _open_tunnel(port: int) -> None:
    from gradio.networking import setup_tunnel

    try:
        url = setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # a download, a certificate, a subprocess: any may fail
        log.error("--share: no public address could be had: %s", error)
    else:
        log.info("Running on public URL: %s", url)


def build_page(panes: Panes, texts: Texts, settings: PageSettings) -> "gr.Blocks":
    """The page's controls."""
    with frame(texts, settings) as page:
        from fastchat.web.chat import Chat

        Chat(page, panes, texts, concurrency=settings.concurrency)
    return page


@contextmanager
def frame(texts: Texts, settings: PageSettings, *, with_bar: bool = False) -> "Iterator[gr.Blocks]":
    """A page being built, ready to be mounted afterwards.

    Args:
        with_bar: begins with the page's name and the switch between light and dark.
    """
    # The library sums up all recent events after each event, for a page we do not open: 2 ms
    # at first and more with every event, spent on a busy page's only processor.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))
    import gradio as gr

    from fastchat.web.chat import terms_html, theme_button

    with gr.Blocks(
        title=texts.page.title,
        analytics_enabled=False,
        fill_height=True,
        fill_width=True,
        delete_cache=UPLOADS_S,
    ) as page:
        if settings.show_terms:
            gr.HTML(terms_html(texts.page))
        if with_bar:
            with gr.Row(elem_classes="head"):
                gr.HTML(f"<h1>{html.escape(texts.page.title)}</h1>", elem_classes="brand")
                gr.HTML(theme_button(texts.page.theme_label), elem_classes="theme")
        yield page
    page.max_threads = settings.concurrency + SPARE_JOBS
    page.queue(status_update_rate=STATUS_S, api_open=False)


def theme() -> "Base":
    """Calm colours, and fonts that every system has."""
    from gradio.themes import Base

    return Base(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=FONT,
        font_mono=FONT_MONO,
    )


def read_accounts(path: Path) -> tuple[tuple[str, str], ...]:
    """Names and passwords from a file of `name:password`, split by commas or lines.

    Raises:
        UsageError: the file cannot be read, holds nothing, or an entry has no colon.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--gradio-auth-path {path}: cannot be read ({error}).") from None
    accounts: list[tuple[str, str]] = []
    entries = (entry.strip() for line in text.splitlines() for entry in line.split(","))
    for number, entry in enumerate((entry for entry in entries if entry), 1):
        name, colon, password = entry.partition(":")
        if not (name and colon and password):
            raise UsageError(f"--gradio-auth-path {path}: entry {number} is not name:password.")
        accounts.append((name, password))
    if not accounts:
        raise UsageError(f"--gradio-auth-path {path}: holds no name:password.")
    return tuple(accounts)
