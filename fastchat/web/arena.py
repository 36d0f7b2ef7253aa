"""The arena as one ASGI application: its tabs, what they share, and the shared conversations."""

import asyncio
import html
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastchat.arena.pairing import PairingFile
from fastchat.errors import StoreError
from fastchat.families.registry import registry
from fastchat.store.arena import ArenaStore
from fastchat.store.arena_records import Kind
from fastchat.store.database import Database
from fastchat.web.app import PageSettings, frame, mounted
from fastchat.web.duel import Duels, Limits
from fastchat.web.guard import CallMonitor, VoteLimit
from fastchat.web.images import UPLOAD_BYTES, PictureFolder
from fastchat.web.ledger import Ledger
from fastchat.web.models import Listing, ModelDirectory
from fastchat.web.remote_log import RemoteLog
from fastchat.web.retention import Retention
from fastchat.web.security import FILE_PREFIX, Guard, Opening
from fastchat.web.shared_page import shared_html
from fastchat.web.texts import Texts
from fastchat.web.visitors import COOKIE, Network, Visitors

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

    from fastchat.arena.live_pairs import LivePairs
    from fastchat.web.board_tab import BoardFiles, BoardSource
    from fastchat.web.examples import Examples

TABS: dict[str, int] = {
    "arena": 0,
    "vision": 0,
    "compare": 1,
    "direct": 2,
    "model": 2,
    "leaderboard": 3,
    "about": 4,
}
"""Published: the tab that a query parameter opens."""
VISUALIZER_TAB = 5
PUBLISHED_LIMITS = Limits()
UPLOADED_BYTES = UPLOAD_BYTES + 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaSettings:
    """What the arena is like, apart from where it listens."""

    page: PageSettings
    database_url: str
    log_folder: Path | None = None
    """Where the daily logs and the pictures are written; None writes neither."""
    arena_config: Path | None = None
    vision: bool = False
    examples: "Examples | None" = None
    limits: Limits = PUBLISHED_LIMITS
    votes_per_minute: int = 30
    monitor_url: str = ""
    remote_log_url: str = ""
    proxies: tuple[Network, ...] = ()
    stores_addresses: bool = False
    analytics_id: str = ""
    storage_url: str = ""
    storage_token: str = ""
    board: "BoardFiles | None" = None
    """Where the board's figures come from; None follows the store."""
    shows_visualizer: bool = False
    keeps_texts: bool = True
    """Without it nothing that was said is written: battles, votes and counts are."""
    retention_days: float | None = None
    """After so many days texts, pictures, shared pages and voters' names are forgotten."""
    seed: int | None = None
    """Of the draws; None takes one from the system."""


class Arena:
    """What all tabs and all readers share."""

    def __init__(self, settings: ArenaSettings) -> None:
        """
        Raises:
            StoreError: the database cannot be used.
            UsageError: a file that was named cannot.
        """
        page = settings.page
        self.settings = settings
        self.texts: Texts = page.texts
        self.rng = random.Random(settings.seed)
        self.directory = ModelDirectory(page.source, now=time.monotonic)
        self.store = ArenaStore(Database(settings.database_url))
        self.ledger = Ledger(
            self.store,
            log_folder=settings.log_folder,
            remote=RemoteLog(settings.remote_log_url) if settings.remote_log_url else None,
            keeps_texts=settings.keeps_texts,
        )
        self.visitors = Visitors(
            key=self.store.secret("voters"),
            proxies=settings.proxies,
            stores_addresses=settings.stores_addresses,
        )
        self.monitor = CallMonitor(settings.monitor_url) if settings.monitor_url else None
        self.pictures = self._pictures() if settings.vision else None
        self.board = self._board()
        self.pairs = self._pairs()
        self.duels = Duels(
            self.directory,
            self.texts,
            self.ledger,
            pairing=PairingFile(settings.arena_config, informant=self.pairs),
            limits=settings.limits,
            vote_limit=VoteLimit(settings.votes_per_minute, now=time.monotonic),
            now=time.monotonic,
            rng=self.rng,
            moderation=page.moderation,
            monitor=self.monitor,
            pictures=self.pictures,
        )

    async def close(self) -> None:
        """Writes what waits, and closes every connection."""
        await self.ledger.close()
        await self.directory.close()
        if self.monitor is not None:
            await self.monitor.close()
        if self.pictures is not None:
            await self.pictures.close()
        if moderation := self.settings.page.moderation:
            await moderation.moderator.close()
        await asyncio.to_thread(self.board.close)
        await asyncio.to_thread(self.pairs.close)
        self.store.database.close()

    def retention(self) -> Retention | None:
        """What forgets old things; None where everything is kept."""
        days = self.settings.retention_days
        if days is None:
            return None
        return Retention(self.store.database, self.settings.log_folder, days=days)

    def _board(self) -> "BoardSource":
        from fastchat.web.board_tab import BoardFiles, board_source

        return board_source(self.store, self.settings.board or BoardFiles())

    def _pairs(self) -> "LivePairs":
        from fastchat.arena.live_pairs import LivePairs

        return LivePairs(self.store)

    def _pictures(self) -> PictureFolder:
        folder = self.settings.log_folder if self.settings.keeps_texts else None
        return PictureFolder(
            folder / "serve_images" if folder else None,
            storage_url=self.settings.storage_url,
            token=self.settings.storage_token,
        )


def build_arena(settings: ArenaSettings) -> Guard:
    """The arena, ready to be served."""
    from fastapi import FastAPI

    arena = Arena(settings)

    @asynccontextmanager
    async def lifespan(_: "FastAPI") -> AsyncIterator[None]:
        tasks = [asyncio.create_task(arena.directory.warm_up())]
        if retention := arena.retention():
            tasks.append(asyncio.create_task(retention.run()))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await arena.close()

    app = FastAPI(openapi_url=None, lifespan=lifespan)
    app.add_route("/shared/{token}", _shared_route(arena))
    opening = Opening(
        prefixes=("/shared/", FILE_PREFIX),
        upload_bytes=UPLOADED_BYTES if settings.vision else 0,
        analytics=bool(settings.analytics_id),
        visitor_cookie=COOKIE,
    )
    head = analytics_html(settings.analytics_id) if settings.analytics_id else ""
    return mounted(app, build_tabs(arena), settings.page, opening=opening, head=head)


def build_tabs(arena: Arena) -> "gr.Blocks":
    """The page: a bar, and a tab for each way to meet the models."""
    settings, words = arena.settings, arena.texts.arena
    with frame(arena.texts, settings.page, with_bar=True) as page:
        import gradio as gr

        from fastchat.web.chat import REFRESH_S

        listed = gr.State(Listing())
        with gr.Tabs(elem_classes="arena-tabs") as tabs:
            _duel_tab(arena, words.tab_battle, TABS["arena"], "anonymous", listed)
            _duel_tab(arena, words.tab_named, TABS["compare"], "named", listed)
            _duel_tab(arena, words.tab_direct, TABS["direct"], "direct", listed)
            _board_tabs(arena, page)
            with gr.Tab(words.tab_about, id=TABS["about"], elem_classes="reading"):
                gr.Markdown(about_text(settings))
                cards = gr.HTML("", elem_classes="cards")

        async def refresh() -> Listing:
            return await arena.directory.listing()

        def choose_tab(request: gr.Request) -> Any:
            asked = [TABS[name] for name in TABS if name in request.query_params]
            return gr.Tabs(selected=asked[0]) if asked else gr.skip()

        def introduce(listing: Listing) -> str:
            return cards_html(listing, words.descriptions)

        quiet = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        gr.on(
            [page.load, gr.Timer(REFRESH_S).tick],
            refresh,
            [],
            [listed],
            trigger_mode="once",
            **quiet,
        )
        page.load(choose_tab, [], [tabs], **quiet)
        listed.change(introduce, [listed], [cards], **quiet)

        async def leave(request: gr.Request) -> None:
            for kind in ("anonymous", "named", "direct"):
                arena.duels.stop(f"{kind}:{request.session_hash}")

        page.unload(leave)
    return page


def _duel_tab(arena: Arena, label: str, tab: int, kind: Kind, listed: "gr.State") -> None:
    import gradio as gr

    from fastchat.web.battle import Battle

    with gr.Tab(label, id=tab, elem_classes=["duel", f"duel-{kind}"]):
        Battle(
            arena.duels,
            arena.texts,
            arena.visitors,
            kind=kind,
            listed=listed,
            concurrency=arena.settings.page.concurrency,
            vision=arena.settings.vision,
            examples=arena.settings.examples,
            rng=arena.rng,
        )


def _board_tabs(arena: Arena, page: "gr.Blocks") -> None:
    """The board moves as votes come, on every page that shows it."""
    import gradio as gr

    from fastchat.web.board_tab import BoardFiles, build_board, build_visualizer

    words, settings = arena.texts.arena, arena.settings
    read = arena.board.leaderboard
    with gr.Tab(words.tab_leaderboard, id=TABS["leaderboard"], elem_classes="reading"):
        build_board(
            page,
            read,
            settings.board or BoardFiles(),
            language=settings.page.language,
            vision=settings.vision,
        )
    if settings.shows_visualizer:
        with gr.Tab(words.tab_visualizer, id=VISUALIZER_TAB, elem_classes="reading") as tab:
            build_visualizer(tab, read)


def cards_html(listing: Listing, title: str) -> str:
    """Who the models are, from their families' cards."""
    entries: list[str] = []
    for model in listing.visible(vision=True).models:
        card = registry().card(model.name)
        about = card.description if card.link else ""
        name = html.escape(model.name)
        safe = card.link.startswith(("https://", "http://"))
        link = html.escape(card.link, quote=True)
        shown = f'<a href="{link}" target="_blank" rel="noopener">{name}</a>' if safe else name
        entries.append(f"<li><b>{shown}</b> {html.escape(about)}</li>")
    return f"<h2>{html.escape(title)}</h2><ul>{''.join(entries)}</ul>" if entries else ""


def about_text(settings: ArenaSettings) -> str:
    """What the page is, and what it keeps of people."""
    words = settings.page.texts.arena
    kept = words.kept
    if settings.retention_days is not None:
        kept = words.kept_for.format(days=f"{settings.retention_days:g}")
    if not settings.keeps_texts:
        kept = words.kept_not
    address = words.kept_address if settings.stores_addresses else words.kept_hash
    return words.about.format(kept=f"{kept.strip()} {address}")


def analytics_html(analytics_id: str) -> str:
    """Google Analytics, where the operator asks for it by `--ga-id`."""
    key = html.escape(analytics_id, quote=True)
    return (
        f'<script async src="https://www.googletagmanager.com/gtag/js?id={key}"></script>'
        "<script>window.dataLayer=window.dataLayer||[];function gtag(){dataLayer.push(arguments);}"
        f"gtag('js',new Date());gtag('config','{key}');</script>"
    )


def _shared_route(arena: Arena):
    """Shows what was shared under a token, to whoever has it."""

    async def shared(request: "Request") -> "Response":
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import HTMLResponse

        token = request.path_params["token"]
        try:
            page = await run_in_threadpool(arena.store.share, token)
        except StoreError as error:
            return HTMLResponse(html.escape(error.message), status_code=503)
        status = 404 if page is None else 200
        return HTMLResponse(shared_html(page, arena.texts), status_code=status)

    return shared
