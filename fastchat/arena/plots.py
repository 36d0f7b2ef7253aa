"""Figures of a leaderboard, by plotly: each takes a board and draws what it holds."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fastchat.arena.activity import Activity
from fastchat.arena.leaderboard import Board, Leaderboard

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHOWN = 25
"""Models in a figure, the best ones."""


def intervals(board: Board, *, shown: int = SHOWN) -> "go.Figure":
    """Ratings with their 95 % intervals."""
    import plotly.graph_objects as go

    rows = board.rows[:shown]
    points = go.Scatter(
        x=[row.model for row in rows],
        y=[row.rating for row in rows],
        text=[f"{row.rating:.0f}" for row in rows],
        mode="markers",
        error_y={
            "type": "data",
            "array": [row.upper - row.rating for row in rows],
            "arrayminus": [row.rating - row.lower for row in rows],
        },
        hovertemplate="%{x}: %{text}<extra></extra>",
    )
    return _laid_out(go.Figure(points), "Rating with its 95 % interval", "Rating")


def average_win_rate(board: Board, *, shown: int = SHOWN) -> "go.Figure":
    """The mean over opponents of the share of decided battles won."""
    import plotly.graph_objects as go

    rows = [row for row in board.rows[:shown] if row.win_rate is not None]
    rows.sort(key=lambda row: -(row.win_rate or 0.0))
    bars = go.Bar(
        x=[row.model for row in rows],
        y=[row.win_rate for row in rows],
        text=[f"{row.win_rate:.2f}" for row in rows],
    )
    return _laid_out(go.Figure(bars), "Average win rate without ties", "Win rate")


def win_fraction_heatmap(board: Board, *, shown: int = SHOWN) -> "go.Figure":
    """The row's share of decided battles against the column."""
    values = [list(row[:shown]) for row in board.win_fractions[:shown]]
    title = "Share of decided battles that the row won against the column"
    return _heatmap(board, values, title, "RdBu", middle=0.5)


def battle_count_heatmap(board: Board, *, shown: int = SHOWN) -> "go.Figure":
    """How often two models met."""
    values = [list(row[:shown]) for row in board.battles[:shown]]
    return _heatmap(board, values, "Battles of each pair", "Blues", middle=None)


def _heatmap(
    board: Board,
    values: list[list[float | None]] | list[list[int]],
    title: str,
    colours: str,
    *,
    middle: float | None,
) -> "go.Figure":
    import plotly.graph_objects as go

    names = [row.model for row in board.rows[: len(values)]]
    texts = [["" if v is None else _short(v) for v in row] for row in values]
    cells = go.Heatmap(
        x=names,
        y=names,
        z=values,
        text=texts,
        texttemplate="%{text}",
        colorscale=colours,
        zmid=middle,
        hovertemplate="%{y} against %{x}: %{z}<extra></extra>",
    )
    figure = _laid_out(go.Figure(cells), title, "")
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=max(400, 24 * len(names) + 200))
    return figure


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def rating_over_time(leaderboard: Leaderboard, *, shown: int = SHOWN) -> "go.Figure":
    """The first board's ratings of all votes up to each moment."""
    import datetime

    import plotly.graph_objects as go

    figure = go.Figure()
    for row in leaderboard.first.rows[:shown]:
        points = [(t, by[row.model]) for t, by in leaderboard.history if row.model in by]
        moments = [datetime.datetime.fromtimestamp(t, datetime.UTC) for t, _ in points]
        ratings = [rating for _, rating in points]
        figure.add_scatter(x=moments, y=ratings, mode="lines+markers", name=row.model)
    return _laid_out(figure, "Rating over time", "Rating")


def activity_by_day(activity: Activity) -> "go.Figure":
    """Chats and votes of each day, one above the other."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for kind in ("chat", "vote"):
        days = sorted(day for day, k in activity.days if k == kind)
        counts = [activity.days[day, kind] for day in days]
        figure.add_bar(x=days, y=counts, name=f"{kind}s")
    figure.update_layout(barmode="stack")
    return _laid_out(figure, "Chats and votes a day (UTC)", "Count")


def _laid_out(figure: "go.Figure", title: str, unit: str) -> "go.Figure":
    figure.update_layout(
        title=title, yaxis_title=unit, margin={"l": 40, "r": 20, "t": 60, "b": 40}, height=480
    )
    return figure


FIGURES: Mapping[str, Callable[..., "go.Figure"]] = {
    "intervals": intervals,
    "average_win_rate": average_win_rate,
    "win_fraction_heatmap": win_fraction_heatmap,
    "battle_count_heatmap": battle_count_heatmap,
}
"""The figures of one board, by the name of their file."""
