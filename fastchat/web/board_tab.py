"""The arena's tabs of results: the leaderboard, from the store or from files, and its plots."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gradio as gr

from fastchat.arena.categories import Category, known_categories, read_categories
from fastchat.arena.export import read_leaderboard
from fastchat.arena.leaderboard import Leaderboard
from fastchat.arena.live_categories import LiveCategories
from fastchat.arena.model_table import read_model_table
from fastchat.arena.plots import battle_count_heatmap, rating_over_time
from fastchat.errors import FastChatError
from fastchat.store.arena import ArenaStore
from fastchat.web.board_tables import csv_html, full_html, overview_html, scores_of
from fastchat.web.foreign_board import ForeignBoard
from fastchat.web.leaderboard import (
    LeaderboardWords,
    Read,
    Shown,
    leaderboard_view,
    leaderboard_words,
    on_page,
    table_html,
)

COPILOT_TITLE = "Copilot Arena"
VISION = "vision"
"""The category of conversations that began with a picture."""
QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "preprocess": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardFiles:
    """Files that the board is shown from, or with."""

    results: Path | None = None
    """ratings.json of `elo_analysis`; None follows the votes in the store."""
    models: Path | None = None
    """CSV of models: organization, license, link, knowledge cutoff."""
    hard: Path | None = None
    """CSV of the arena-hard benchmark."""
    copilot_url: str = ""
    """Where a leaderboard of others is published as JSON; empty shows none."""
    categories: Path | None = None
    """TOML of categories beside those that ship; for boards that follow the store."""


class BoardSource(Protocol):
    """Where a board comes from."""

    def leaderboard(self) -> Leaderboard:
        """The boards of now.

        Raises:
            FastChatError: they cannot be had now.
        """
        ...

    def close(self) -> None:
        """Ends what it does in the background."""
        ...


class ResultsFile:
    """The boards of a results file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            DataError: the file is none.
        """
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._read = Leaderboard(boards={})
        self.leaderboard()

    def leaderboard(self) -> Leaderboard:
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
        except OSError:
            stamp = None
        if stamp is None or stamp != self._stamp:
            self._read = read_leaderboard(self._path)  # says what is wrong with it
            self._stamp = stamp
        return self._read

    def close(self) -> None:
        """Does nothing in the background."""


def board_source(store: ArenaStore, files: BoardFiles) -> BoardSource:
    """Where the arena's board comes from.

    Raises:
        DataError: a file that was named is none.
    """
    if files.results is not None:
        return ResultsFile(files.results)
    own = read_categories(files.categories) if files.categories else {}
    categories: dict[str, Category] = {**known_categories(), **own}
    return LiveCategories(store, categories)


def build_board(
    page: gr.Blocks,
    read: Read,
    files: BoardFiles,
    *,
    language: str,
    vision: bool,
    interval_s: float = 10.0,
) -> None:
    """The leaderboard in the tab that is being built, and tables beside it.

    vision: there is a table of the battles about pictures.
    interval_s: how often an open page asks for the board of now.
    """
    words = leaderboard_words(language)
    infos = read_model_table(files.models) if files.models else {}
    hard = csv_html(files.hard, words.hard) if files.hard else ""
    scores = scores_of(files.hard) if files.hard else {}

    with gr.Tabs(elem_classes="board-tabs"):
        with gr.Tab(words.tab_arena):
            leaderboard_view(page, read, infos=infos, words=words, interval_s=interval_s)
        with gr.Tab(words.tab_overview) as overview:
            choices = [words.by_rank, words.by_rating]
            sort = gr.Radio(choices, value=words.by_rank, label=words.sort)
            _follows(
                [overview.select, sort.change],
                [sort],
                lambda found, by: overview_html(found, words, by_rating=by == words.by_rating),
                read,
                words,
            )
        if vision:
            shown = Shown(category=VISION, all_models=True)

            def pictures(found: Leaderboard) -> str:
                only = {k: b for k, b in found.boards.items() if k.startswith(VISION)}
                return table_html(Leaderboard(boards=only), shown, words, infos)

            with gr.Tab(words.tab_vision) as tab:
                _follows([tab.select], [], pictures, read, words)
        if hard:
            with gr.Tab(words.hard):
                gr.HTML(hard, elem_classes="ratings")
        if files.copilot_url:
            foreign = ForeignBoard(files.copilot_url)
            with gr.Tab(COPILOT_TITLE) as tab:
                _follows([tab.select], [], lambda found: foreign.html(), read, words)
        if infos:
            with gr.Tab(words.tab_full) as tab:
                _follows(
                    [tab.select],
                    [],
                    lambda found: full_html(found, words, infos, scores),
                    read,
                    words,
                )


def _follows(
    events: Sequence[Any],
    inputs: list[Any],
    draw: Callable[..., str],
    read: Read,
    words: LeaderboardWords,
) -> None:
    """A table that is drawn at each of the events, from the board of then."""
    table = gr.HTML("", elem_classes="ratings")

    def show(*chosen: Any) -> str:
        try:
            return draw(read(), *chosen)
        except FastChatError:
            return f"<p>{words.unavailable}</p>"

    gr.on(list(events), show, inputs, [table], **QUIET)


def build_visualizer(tab: gr.Tab, read: Read) -> None:
    """How the ratings moved, and who met whom; drawn when the tab is opened."""
    moved, met = gr.Plot(show_label=False), gr.Plot(show_label=False)

    def draw() -> list[Any]:
        try:
            leaderboard = read()
        except FastChatError as error:
            gr.Warning(error.message)
            return [gr.skip(), gr.skip()]
        figures = rating_over_time(leaderboard), battle_count_heatmap(leaderboard.first)
        return [on_page(figure) for figure in figures]

    tab.select(draw, [], [moved, met], **QUIET)
