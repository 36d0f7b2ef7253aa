"""The arena's tabs of results: the leaderboard, from the store or from files, and its plots."""

import csv
import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from fastchat.arena.export import read_leaderboard
from fastchat.arena.leaderboard import Leaderboard
from fastchat.arena.live import LiveLeaderboard
from fastchat.arena.model_table import read_model_table
from fastchat.arena.plots import battle_count_heatmap, rating_over_time
from fastchat.errors import FastChatError, UsageError
from fastchat.store.arena import ArenaStore
from fastchat.web.leaderboard import leaderboard_view, leaderboard_words

HARD_TITLE = "Arena-Hard-Auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardFiles:
    """Files that the board is shown from, or with."""

    results: Path | None = None
    """ratings.json of `elo_analysis`; None follows the votes in the store."""
    models: Path | None = None
    """CSV of models: organization, license, link, knowledge cutoff."""
    hard: Path | None = None
    """CSV of the arena-hard benchmark."""


def board_source(store: ArenaStore, files: BoardFiles) -> Callable[[], Leaderboard]:
    """Gives the leaderboard of now.

    Raises:
        DataError: the results file is none.
    """
    path = files.results
    if path is None:
        return LiveLeaderboard(store).leaderboard
    read_leaderboard(path)  # tells what is wrong before anybody looks
    return lambda: read_leaderboard(path)


def build_board(
    page: gr.Blocks, read: Callable[[], Leaderboard], files: BoardFiles, *, language: str
) -> None:
    """The leaderboard in the tab that is being built."""
    infos = read_model_table(files.models) if files.models else {}
    leaderboard_view(page, read, infos=infos, words=leaderboard_words(language))
    if files.hard is not None:
        gr.HTML(table_html(files.hard, HARD_TITLE), elem_classes="ratings")


def build_visualizer(tab: gr.Tab, read: Callable[[], Leaderboard]) -> None:
    """How the ratings moved, and who met whom; drawn when the tab is opened."""
    moved, met = gr.Plot(show_label=False), gr.Plot(show_label=False)

    def draw() -> list[Any]:
        try:
            leaderboard = read()
        except FastChatError as error:
            gr.Warning(error.message)
            return [gr.skip(), gr.skip()]
        return [rating_over_time(leaderboard), battle_count_heatmap(leaderboard.first)]

    tab.select(draw, [], [moved, met], show_progress="hidden", api_visibility="private")


def table_html(path: Path, title: str) -> str:
    """A CSV file as a table.

    Raises:
        UsageError: it cannot be read, or holds no rows.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read ({error}).") from None
    if len(rows) < 2:
        raise UsageError(f"{path}: holds no rows below its header.")
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[1:]
    )
    return (
        f"<h2>{html.escape(title)}</h2>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
