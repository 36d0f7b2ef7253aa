"""The arena: blind battles, models side by side, direct chat, and the board that votes make.

python3 -m fastchat.serve.gradio_web_server_multi
"""

import os
import random
import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fastchat import logs
from fastchat.errors import UsageError
from fastchat.serve import asgi
from fastchat.serve.gradio_web_server import (
    WebSettings,
    bind_page,
    read_page_settings,
    serve_guarded,
    with_endpoint_file,
)
from fastchat.settings import CommaList, Env, alias, run_command

if TYPE_CHECKING:
    from fastchat.web.arena import ArenaSettings

PROG = "python3 -m fastchat.serve.gradio_web_server_multi"
STORAGE_URL = "FASTCHAT_IMAGE_STORAGE_URL"
STORAGE_TOKEN = "FASTCHAT_IMAGE_STORAGE_TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiSettings(WebSettings):
    """Serves the arena: battles, side by side, direct chat and the leaderboard."""

    database_url: Annotated[str, Env("FASTCHAT_DATABASE_URL")] = "fastchat.db"
    """SQLite file, or a URL such as postgresql://user:password@host/name."""
    log_dir: Annotated[str, Env("LOGDIR")] = "."
    """Folder of the daily conversation logs and of the pictures; empty writes none."""
    arena_config: Path | None = None
    """TOML or JSON file with weights, targets and outages of the models; read again on change."""
    vision_arena: bool = False
    """Let readers add pictures, and let models that see them battle."""
    use_remote_storage: bool = False
    """Upload readers' pictures to FASTCHAT_IMAGE_STORAGE_URL, a bucket for example."""
    random_questions: Path | None = None
    """JSON list of {dataset, question, path}: pictures with questions that a reader may draw."""
    blind_char_len_limit: Annotated[int, Env("FASTCHAT_BLIND_MODE_INPUT_CHAR_LEN_LIMIT")] = 30_000
    """Characters of one message in an anonymous battle."""
    vote_limit: int = 30
    """Votes in a minute from one address; 0 sets no limit."""
    monitor_url: str = ""
    """Address of a call monitor, which limits how often a model is asked."""
    trusted_proxies: CommaList = ()
    """Addresses or networks whose X-Forwarded-For is believed."""
    store_addresses: bool = False
    """Keep readers' addresses as they are, instead of a keyed hash."""
    log_content: bool = True
    """Keep what was said; --no-log-content keeps only who met whom, and the votes."""
    retention_days: float | None = None
    """Forget texts, pictures, shared pages and voters' names after so many days; votes stay."""
    remote_logger_url: Annotated[str, Env("REMOTE_LOGGER_URL")] = ""
    """Also post every line of the log there."""
    password: Annotated[str, Env("FASTCHAT_WEB_PASSWORD")] = ""
    """One password for everybody, under any name. Better given by the environment."""
    ga_id: str = ""
    """Google Analytics id; without it the page loads nothing from elsewhere."""
    language: Literal["en", "zh"] = "en"
    """Language of the page."""
    elo_results_file: Annotated[Path | None, alias("--elo")] = None
    """ratings.json of elo_analysis; without it the board follows the votes as they come."""
    leaderboard_table_file: Path | None = None
    """CSV of models: organization, license, link, knowledge cutoff."""
    arena_hard_table: Path | None = None
    """CSV of the arena-hard benchmark, shown in a tab of its own."""
    copilot_url: Annotated[str, Env("COPILOT_ARENA_LEADERBOARD_URL")] = ""
    """Address of another arena's leaderboard in JSON, shown in a tab of its own."""
    category_file: Path | None = None
    """TOML file of further categories of the board; without --elo-results-file."""
    show_visualizer: bool = False
    """Add a tab with plots of the board."""


def main(argv: list[str] | None = None) -> int:
    """Runs the arena; gives the exit status."""
    return run_command(MultiSettings, run, argv, prog=PROG)


def run(settings: MultiSettings) -> None:
    """Builds the arena and serves it until a signal."""
    with with_endpoint_file(settings) as settings:
        arena_settings = read_arena_settings(settings)
        logs.setup("gradio_web_server_multi.log", debug=settings.debug)
        sockets = bind_page(settings.host, settings.port)
        asgi.run_loop(serve_arena(arena_settings, settings, sockets))


def read_arena_settings(settings: MultiSettings) -> "ArenaSettings":
    """What the arena is told, checked as far as it can be before it is built.

    Raises:
        UsageError: a value that cannot work.
    """
    from dataclasses import replace

    from fastchat.web.arena import ArenaSettings
    from fastchat.web.board_tab import BoardFiles
    from fastchat.web.duel import Limits
    from fastchat.web.examples import read_examples
    from fastchat.web.foreign_board import check_address
    from fastchat.web.visitors import read_networks

    if settings.random_questions and not settings.vision_arena:
        raise UsageError("--random-questions needs --vision-arena: its questions have pictures.")
    if settings.category_file and settings.elo_results_file:
        raise UsageError(
            "--category-file is for boards of the store; give it to elo_analysis, "
            "whose --elo-results-file has its categories already."
        )
    if settings.blind_char_len_limit <= 0 or settings.vote_limit < 0:
        raise UsageError("--blind-char-len-limit must be above 0, --vote-limit not below.")
    if settings.retention_days is not None and settings.retention_days <= 0:
        raise UsageError(
            f"--retention-days {settings.retention_days:g}: must be above 0; "
            "--no-log-content keeps no texts at all."
        )
    if settings.use_remote_storage and not settings.log_content:
        raise UsageError("--no-log-content and --use-remote-storage exclude each other.")
    if settings.ga_id and not re.fullmatch(r"[A-Za-z0-9-]+", settings.ga_id):
        raise UsageError(f"--ga-id {settings.ga_id!r} is none; it looks like G-ABC123.")
    check_address(settings.copilot_url)
    url, token = _storage(settings)
    page = read_page_settings(settings)
    rng = random.Random()
    return ArenaSettings(
        page=replace(page, password=settings.password, language=settings.language),
        database_url=settings.database_url,
        log_folder=Path(settings.log_dir) if settings.log_dir else None,
        arena_config=settings.arena_config,
        vision=settings.vision_arena,
        examples=(
            read_examples(settings.random_questions, rng=rng) if settings.random_questions else None
        ),
        limits=Limits(
            message=settings.input_char_len_limit, anonymous=settings.blind_char_len_limit
        ),
        votes_per_minute=settings.vote_limit,
        monitor_url=settings.monitor_url,
        remote_log_url=settings.remote_logger_url,
        proxies=read_networks(settings.trusted_proxies),
        stores_addresses=settings.store_addresses,
        keeps_texts=settings.log_content,
        retention_days=settings.retention_days,
        analytics_id=settings.ga_id,
        board=BoardFiles(
            results=settings.elo_results_file,
            models=settings.leaderboard_table_file,
            hard=settings.arena_hard_table,
            copilot_url=settings.copilot_url,
            categories=settings.category_file,
        ),
        shows_visualizer=settings.show_visualizer,
        storage_url=url,
        storage_token=token,
    )


def _storage(settings: MultiSettings) -> tuple[str, str]:
    """Where pictures are uploaded to, and with which token."""
    if not settings.use_remote_storage:
        return "", ""
    url = os.environ.get(STORAGE_URL, "")
    if not url:
        raise UsageError(
            f"--use-remote-storage needs {STORAGE_URL}, for example "
            f"https://storage.googleapis.com/BUCKET, and {STORAGE_TOKEN}."
        )
    return url, os.environ.get(STORAGE_TOKEN, "")


async def serve_arena(
    arena_settings: "ArenaSettings", settings: MultiSettings, sockets: list[socket.socket]
) -> None:
    """Builds the arena, which wants a running loop, and serves it."""
    from fastchat.web.arena import build_arena

    await serve_guarded(build_arena(arena_settings), settings, sockets, share=settings.share)


if __name__ == "__main__":
    sys.exit(main())
