"""A page of its own for the leaderboard and the statistics, from results, a store or logs."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastchat import logs
from fastchat.errors import FastChatError, UsageError
from fastchat.serve import asgi
from fastchat.settings import CommaList, Env, NameList, ServerSettings, alias, run_command

if TYPE_CHECKING:
    from fastchat.arena.leaderboard import Leaderboard
    from fastchat.web.app import PageSettings
    from fastchat.web.security import Guard

PROG = "python3 -m fastchat.serve.monitor.monitor"


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings(ServerSettings):
    """Serves the leaderboard and the statistics of an arena."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]  # unset: search
    """Port to listen on; without it the first free one from 7860 on."""
    share: bool = False
    """Also open a public address through Gradio's tunnel."""
    concurrency_count: int = 10
    """Requests worked on at a time."""
    update_interval: int = 300
    """Seconds after which logs are read again."""
    elo_results_file: Annotated[Path | None, alias("--elo")] = None
    """ratings.json of elo_analysis; without it the board is made of the logs or the store."""
    database_url: Annotated[str | None, Env("FASTCHAT_DATABASE_URL")] = None
    """Follow the votes of this store."""
    log_root: Annotated[Path, alias("--logdir")] = Path("~/fastchat_logs")
    """Folder of the logs."""
    max_num_files: int | None = None
    """Read only the newest so many logs."""
    leaderboard_table_file: Path | None = None
    """CSV of models: organization, license, link, knowledge cutoff."""
    arena_hard_leaderboard: Path | None = None
    """CSV of the arena-hard benchmark, shown in a tab of its own."""
    copilot_url: Annotated[str, Env("COPILOT_ARENA_LEADERBOARD_URL")] = ""
    """Address of another arena's leaderboard in JSON, shown in a tab of its own."""
    ban_ip_file: Path | None = None
    """JSON list of addresses whose votes in the logs are left out."""
    exclude_model_names: NameList = ()
    """Models whose battles in the logs are left out."""
    password: tuple[str, str] | None = None
    """Name and password that let readers in."""
    allowed_hosts: CommaList = ()
    """Further names under which the page is reached, for example behind a proxy."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the page; gives the exit status."""
    return run_command(MonitorSettings, run, argv, prog=PROG)


def run(settings: MonitorSettings) -> None:
    """Builds the page and serves it until a signal."""
    _check(settings)
    logs.setup("monitor.log", debug=settings.debug)
    app = build_monitor(settings)
    from fastchat.serve.gradio_web_server import bind_page, serve_guarded

    sockets = bind_page(settings.host, settings.port)
    asgi.run_loop(serve_guarded(app, settings, sockets, share=settings.share))


def _check(settings: MonitorSettings) -> None:
    """Raises UsageError for flags that cannot be, or that would do nothing."""
    from fastchat.web.foreign_board import check_address

    if settings.update_interval < 1:
        raise UsageError(f"--update-interval {settings.update_interval} is below 1 second.")
    if settings.concurrency_count < 1:
        raise UsageError(f"--concurrency-count {settings.concurrency_count} is below 1.")
    check_address(settings.copilot_url)
    if settings.elo_results_file is None and settings.database_url is None:
        return
    for name in ("ban_ip_file", "exclude_model_names"):
        if getattr(settings, name):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is of boards made of logs; elo_analysis leaves them out.")


def build_monitor(settings: MonitorSettings) -> "Guard":
    """The page, ready to be served.

    Raises:
        UsageError, DataError: a file that is named cannot be used.
    """
    import gradio as gr
    from fastapi import FastAPI

    from fastchat.web.app import frame, mounted
    from fastchat.web.board_tab import QUIET, BoardFiles, build_board

    read = leaderboard_source(settings)
    files = BoardFiles(
        models=settings.leaderboard_table_file,
        hard=settings.arena_hard_leaderboard,
        copilot_url=settings.copilot_url,
    )
    page_settings = _page_settings(settings)
    with frame(page_settings.texts, page_settings) as page, gr.Tabs():
        with gr.Tab("Leaderboard", elem_classes="reading"):
            interval_s = min(10, settings.update_interval)
            build_board(page, read, files, language="en", vision=True, interval_s=interval_s)
        with gr.Tab("Basic stats", elem_classes="reading") as tab:
            shown, chart = gr.Markdown(""), gr.Plot(show_label=False)
            tab.select(_statistics(settings), [], [shown, chart], **QUIET)
    return mounted(FastAPI(openapi_url=None), page, page_settings)


def leaderboard_source(settings: MonitorSettings) -> "Callable[[], Leaderboard]":
    """Gives the leaderboard of now: of the results file, of the store, or of the logs."""
    import time

    if settings.elo_results_file is not None:
        from fastchat.arena.export import read_leaderboard

        path = settings.elo_results_file
        read_leaderboard(path)  # tells what is wrong before anybody looks
        return Renewed(lambda: read_leaderboard(path), settings.update_interval, time.monotonic)
    if settings.database_url is not None:
        from fastchat.arena.categories import known_categories
        from fastchat.arena.live_categories import LiveCategories
        from fastchat.store.arena import ArenaStore
        from fastchat.store.database import Database

        store = ArenaStore(Database(settings.database_url))
        return LiveCategories(store, known_categories()).leaderboard
    return Renewed(lambda: _of_logs(settings), settings.update_interval, time.monotonic)


class Renewed:
    """A leaderboard that is made anew when it is asked for and older than so many seconds."""

    def __init__(
        self, make: "Callable[[], Leaderboard]", interval_s: float, now: Callable[[], float]
    ) -> None:
        import threading

        self._make = make
        self._interval_s = interval_s
        self._now = now
        self._lock = threading.Lock()  # guards the last one, which one thread makes
        self._last: Leaderboard | None = None
        self._made_at = 0.0

    def __call__(self) -> "Leaderboard":
        with self._lock:
            now = self._now()
            if self._last is None or now - self._made_at >= self._interval_s:
                self._last, self._made_at = self._make(), now
            return self._last


def _of_logs(settings: MonitorSettings) -> "Leaderboard":
    """The boards of all categories that the logs tell, with style control."""
    import polars as pl

    from fastchat.arena.battles import Cleaner, CleaningRules, battles_of_logs
    from fastchat.arena.categories import known_categories
    from fastchat.arena.events import log_files
    from fastchat.arena.leaderboard import Method, build
    from fastchat.serve.monitor.clean_battle_data import read_banned

    rules = CleaningRules(
        exclude_models=frozenset(settings.exclude_model_names),
        banned_ips=read_banned(settings.ban_ip_file),
    )
    files = log_files(settings.log_root, newest=settings.max_num_files)
    table = battles_of_logs(files, cleaner=Cleaner(rules, keep_addresses=True))
    blind = table.frame.filter(pl.col("anony"))
    told = [c for c in known_categories().values() if not c.missing(blind)]
    return build(blind, told, method=Method(style=True, moments=20), refused=table.refused)


def _statistics(settings: MonitorSettings) -> Callable[[], list[Any]]:
    """Gives the tables and the chart of basic_stats; where there are no logs, says so."""
    from fastchat.serve.monitor.basic_stats import BasicStatsSettings, activity_of, tables

    source = BasicStatsSettings(
        log_root=settings.log_root,
        max_num_files=settings.max_num_files,
        database_url=settings.database_url,
    )

    def now() -> list[Any]:
        from fastchat.arena.plots import activity_by_day
        from fastchat.web.leaderboard import on_page

        try:
            activity = activity_of(source)
        except UsageError:
            return ["There are no logs yet.", None]
        except FastChatError as error:
            return [error.message, None]
        return ["\n".join(tables(activity)), on_page(activity_by_day(activity))]

    return now


def _page_settings(settings: MonitorSettings) -> "PageSettings":
    from fastchat.web.app import PageSettings
    from fastchat.web.models import Source
    from fastchat.web.security import is_loopback

    return PageSettings(
        source=Source(),
        concurrency=settings.concurrency_count,
        accounts=(settings.password,) if settings.password else (),
        hosts=settings.allowed_hosts,
        any_host=settings.share or not is_loopback(settings.host),
    )


if __name__ == "__main__":
    sys.exit(main())
