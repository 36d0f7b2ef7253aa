"""Tables beside the leaderboard's own: every category at once, every score at once, CSV files."""

import csv
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastchat.arena.leaderboard import Board, Leaderboard, Row
from fastchat.arena.model_table import ModelInfo
from fastchat.errors import UsageError
from fastchat.web.leaderboard import FEW_VOTES, LeaderboardWords, categories_of

MISSING = "–"
BEST = 3
"""Ranks that are marked."""


def overview_html(leaderboard: Leaderboard, words: LeaderboardWords, *, by_rating: bool) -> str:
    """The ranks, or the ratings, of every model in every category.

    by_rating: the models stand in the order of their overall rating, and ratings are shown.
    """
    choices = categories_of(leaderboard, words)
    boards = [leaderboard.boards[key] for _, key in choices]
    models = [row.model for row in boards[0].rows] if boards else []
    if not models:
        return f"<p>{html.escape(words.empty)}</p>"
    found = [_enough_votes(board, is_overall=i == 0) for i, board in enumerate(boards)]
    rows = [
        [html.escape(model), *(_place(rows.get(model), by_rating=by_rating) for rows in found)]
        for model in models
    ]
    return (
        f"<p>{html.escape(words.overview)}</p>"
        f"{_table([words.model, *(title for title, _ in choices)], rows, kind='overview')}"
    )


def full_html(
    leaderboard: Leaderboard,
    words: LeaderboardWords,
    infos: Mapping[str, ModelInfo],
    hard: Mapping[str, str],
) -> str:
    """Every model of the board or of the table of models, with its scores everywhere.

    hard: scores of the arena-hard benchmark by model.
    """
    rated = {row.model: row for row in leaderboard.first.rows}
    models = [*rated, *(key for key in infos if key not in rated)]
    if not models:
        return f"<p>{html.escape(words.empty)}</p>"
    head = [words.model, words.rating, *([words.hard] if hard else []), "MT-bench", "MMLU"]
    head += [words.organization, words.license]
    rows = [_scores(model, rated.get(model), infos.get(model), hard) for model in models]
    return _table(head, rows, kind="full")


def _scores(
    model: str, row: Row | None, info: ModelInfo | None, hard: Mapping[str, str]
) -> list[str]:
    info = info or ModelInfo(key=model, name=model)
    known = next((hard[name] for name in (model, info.name) if name in hard), MISSING)
    return [
        html.escape(info.name),
        f"{row.rating:.0f}" if row else MISSING,
        *([html.escape(known)] if hard else []),
        MISSING if info.mt_bench is None else f"{info.mt_bench:.2f}",
        MISSING if info.mmlu is None else f"{100 * info.mmlu:.1f}",
        html.escape(info.organization or MISSING),
        html.escape(info.license or MISSING),
    ]


def _enough_votes(board: Board, *, is_overall: bool) -> dict[str, Row]:
    return {row.model: row for row in board.rows if is_overall or row.n_battles > FEW_VOTES}


def _place(row: Row | None, *, by_rating: bool) -> str:
    """One cell of the overview."""
    if row is None:
        return MISSING
    text = f"{row.rating:.0f}" if by_rating else str(row.rank)
    return f'<b class="best best-{row.rank}">{text}</b>' if row.rank <= BEST else text


def csv_html(path: Path, title: str) -> str:
    """A CSV file as a table.

    Raises:
        UsageError: it cannot be read, or holds no rows.
    """
    head, *body = _rows_of(path)
    return f"<h2>{html.escape(title)}</h2>{rows_html(head, body)}"


def scores_of(path: Path) -> dict[str, str]:
    """The scores of a CSV file by model: its columns `model` and `score`, where it has both.

    Raises:
        UsageError: it cannot be read, or holds no rows.
    """
    head, *body = _rows_of(path)
    names = [name.strip().lower() for name in head]
    if not {"model", "score"} <= set(names):
        return {}
    model, score = names.index("model"), names.index("score")
    return {row[model]: row[score] for row in body if len(row) > max(model, score)}


def rows_html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    return _table(head, [[html.escape(cell) for cell in row] for row in rows], kind="file")


def _rows_of(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read ({error}).") from None
    if len(rows) < 2:
        raise UsageError(f"{path}: holds no rows below its header.")
    return rows


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str) -> str:
    """A table that is pushed aside where it is wider than the page; cells are HTML."""
    heads = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
