"""The view of a leaderboard: category, style switch, table, plots, files. One function builds it.

It asks a function for the `Leaderboard` whenever it shows something, and knows neither the store
nor the files that it comes from.
"""

import base64
import functools
import html
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from fastchat.arena.leaderboard import STYLE_SUFFIX, Board, Leaderboard, Row
from fastchat.arena.model_table import ModelInfo
from fastchat.errors import FastChatError

if TYPE_CHECKING:
    import gradio as gr
    import plotly.graph_objects as go

Read = Callable[[], Leaderboard]

FEW_VOTES = 300
"""Published: boards other than the first leave out models with this many votes or fewer."""
OVER_TIME = "rating_over_time"
RAW: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "undocumented",
    "preprocess": False,
}
"""Events take what the browser sends as it is: the library would refuse the choice of a page that
was open before the server began again."""
LONGEST_NAME = 24
"""Letters of a model's name along an axis."""
TOOLS_LEFT_OUT = ("zoom", "pan", "select", "lasso", "zoomIn", "zoomOut", "autoScale")
LEFT = "text-align:left;font-weight:inherit;padding:.4rem .8rem .4rem 0"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderboardWords:
    """What the view says, in one language."""

    summary: str
    category: str
    style: str
    style_info: str
    deprecated: str
    search: str
    search_hint: str
    rank: str
    rank_style: str
    delta: str
    model: str
    rating: str
    interval: str
    votes: str
    organization: str
    license: str
    cutoff: str
    explained: str
    plots: str
    plot: str
    export: str
    export_button: str
    empty: str
    few: str
    no_votes: str
    tab_arena: str
    tab_overview: str
    tab_vision: str
    tab_full: str
    overview: str
    sort: str
    by_rank: str
    by_rating: str
    hard: str
    unavailable: str
    figures: Mapping[str, str]
    categories: Mapping[str, str]
    """Titles by category, where they are others than a board's own."""

    def title(self, key: str, own: str) -> str:
        """What the category `key` is called, whose board calls itself `own`."""
        return self.categories.get(key, own)


@functools.cache
def leaderboard_words(language: str = "en") -> LeaderboardWords:
    """The words of a language: en or zh."""
    text = resources.files("fastchat.web").joinpath("leaderboard.toml").read_text("utf-8")
    return LeaderboardWords(**tomllib.loads(text)[language])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a reader chose to see."""

    category: str = ""
    """The key of a board without style control; empty for the first."""
    all_models: bool = False
    """Also those with few votes in the category."""
    style: bool = False
    deprecated: bool = False
    search: str = ""


def categories_of(
    leaderboard: Leaderboard, words: LeaderboardWords | None = None
) -> list[tuple[str, str]]:
    """Title and key of the boards to choose from, the overall one first."""
    boards = leaderboard.boards.items()
    plain = [(key, board.title) for key, board in boards if not board.is_style_controlled]
    return [(words.title(key, own) if words else own, key) for key, own in plain]


def board_shown(leaderboard: Leaderboard, shown: Shown) -> Board:
    """The board that was chosen; without its style control where there is none."""
    keys = [key for _, key in categories_of(leaderboard)]
    category = shown.category if shown.category in keys else (keys[0] if keys else "")
    styled = leaderboard.boards.get(category + STYLE_SUFFIX)
    if shown.style and styled is not None:
        return styled
    return leaderboard.boards.get(category, leaderboard.first)


def table_html(
    leaderboard: Leaderboard,
    shown: Shown,
    words: LeaderboardWords,
    infos: Mapping[str, ModelInfo],
) -> str:
    """The chosen board as a table, with its notes."""
    board = board_shown(leaderboard, shown)
    keys = [key for _, key in categories_of(leaderboard)]
    overall = leaderboard.boards[keys[0]] if keys else board
    is_overall = board.key.removesuffix(STYLE_SUFFIX) == overall.key
    rows = [row for row in board.rows if _is_shown(row, shown, infos, is_overall=is_overall)]
    sentences = (note[:1].upper() + note[1:] for note in board.notes)
    notes = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in sentences)
    few = _few(board, shown, is_overall=is_overall)
    if few:
        told_few = words.few.format(n=FEW_VOTES, left_out=few)
        notes += f"<p><small>{html.escape(told_few)}</small></p>"
    if not rows:
        return f"<p>{html.escape(words.empty)}</p>{notes}"
    compared, title = _compared(leaderboard, board, overall, words, is_overall=is_overall)
    told = any(row.model in infos for row in rows)
    heads = [words.rank, *([title] if compared else []), words.model]
    heads += [words.rating, words.interval, words.votes]
    heads += [words.organization, words.license, words.cutoff] if told else []
    cells = [
        [
            str(row.rank),
            *([compared.get(row.model, "")] if compared else []),
            *_cells(row, infos.get(row.model), told),
        ]
        for row in rows
    ]
    at = heads.index(words.model)
    head = _row([html.escape(text) for text in heads], at, 'th scope="col"')
    body = "".join(f"<tr>{_row(row, at, 'td')}</tr>" for row in cells)
    own_words = not words.categories  # a board describes itself in English
    return (
        f"<p>{html.escape(board.description if own_words else '')}</p>{notes}"
        f'<div style="overflow-x:auto"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div><p>{html.escape(words.explained)}</p>"
    )


def _row(cells: Sequence[str], at: int, kind: str) -> str:
    """Cells as HTML, of which that at `at` holds the model."""
    end = kind.split()[0]
    classes = ['class="model" ' if i == at else "" for i in range(len(cells))]
    told = zip(cells, classes, strict=True)
    return "".join(f'<{kind} {c}style="{LEFT}">{cell}</{end}>' for cell, c in told)


def _is_shown(row: Row, shown: Shown, infos: Mapping[str, ModelInfo], *, is_overall: bool) -> bool:
    info = infos.get(row.model)
    if info is not None and info.deprecated and not shown.deprecated:
        return False
    if _is_few(row, shown, is_overall=is_overall):
        return False
    name = f"{row.model} {info.name if info else ''}".lower()
    return shown.search.strip().lower() in name


def _is_few(row: Row, shown: Shown, *, is_overall: bool) -> bool:
    return not (is_overall or shown.all_models) and row.n_battles <= FEW_VOTES


def _few(board: Board, shown: Shown, *, is_overall: bool) -> int:
    """How many models are left out for their few votes."""
    return sum(_is_few(row, shown, is_overall=is_overall) for row in board.rows)


def _compared(
    leaderboard: Leaderboard,
    board: Board,
    overall: Board,
    words: LeaderboardWords,
    *,
    is_overall: bool,
) -> tuple[dict[str, str], str]:
    """The second column and its title: the other rank, or how the rank differs from overall."""
    if is_overall:
        styled = leaderboard.boards.get(overall.key + STYLE_SUFFIX)
        ranks = {row.model: str(row.rank) for row in styled.rows} if styled else {}
        return ranks, words.rank_style
    before = {row.model: row.rank for row in overall.rows}
    deltas = {r.model: before[r.model] - r.rank for r in board.rows if r.model in before}
    return {model: f"{delta:+d}" if delta else "0" for model, delta in deltas.items()}, words.delta


def _cells(row: Row, info: ModelInfo | None, with_info: bool) -> list[str]:
    """The cells from the model's name on, as HTML."""
    name = html.escape(info.name if info else row.model)
    if info is not None and info.link:
        link = html.escape(info.link, quote=True)
        name = f'<a href="{link}" target="_blank" rel="noopener">{name}</a>'
    interval = f"+{row.upper - row.rating:.0f}/-{row.rating - row.lower:.0f}"
    cells = [name, f"{row.rating:.0f}", interval, f"{row.n_battles:,}"]
    if with_info:
        told = (info.organization, info.license, info.knowledge_cutoff) if info else ("",) * 3
        cells += [html.escape(text) for text in told]
    return cells


def figure_of(leaderboard: Leaderboard, shown: Shown, name: str) -> "go.Figure":
    """The figure of the chosen board."""
    from fastchat.arena.plots import FIGURES, rating_over_time

    if name == OVER_TIME:
        return on_page(rating_over_time(leaderboard))
    return on_page(FIGURES[name](board_shown(leaderboard, shown)))


def on_page(figure: "go.Figure") -> "go.Figure":
    """The figure as the page shows it: readable in the light and in the dark, with short names,
    and without the tools that hide its title on a phone."""
    clear, line, ink = "rgba(0, 0, 0, 0)", "rgba(128, 140, 160, 0.3)", "#7b8799"
    figure.update_layout(
        paper_bgcolor=clear,
        plot_bgcolor=clear,
        font_color=ink,
        modebar={"bgcolor": clear, "color": ink, "remove": list(TOOLS_LEFT_OUT)},
    )
    for name, update in (("x", figure.update_xaxes), ("y", figure.update_yaxes)):
        update(gridcolor=line, zerolinecolor=line)
        if names := _names_along(figure, name):
            update(tickmode="array", tickvals=names, ticktext=[_short(text) for text in names])
    return figure


def _names_along(figure: "go.Figure", axis: str) -> list[str]:
    """The names that an axis of the figure has instead of numbers."""
    found: dict[str, None] = {}
    for trace in figure.data:
        values = getattr(trace, axis, None)
        found |= dict.fromkeys(v for v in (() if values is None else values) if _is_name(v))
    return list(found)


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def export_html(leaderboard: Leaderboard, shown: Shown) -> str:
    """Links that hold the board as CSV, and all boards as JSON and as one page.

    The files stand within the links, so that the page keeps none and serves none.
    """
    from fastchat.arena.export import csv_of, html_of, json_of

    board = board_shown(leaderboard, shown)
    files = {
        f"ratings_{board.key}.csv": ("text/csv", csv_of(board).encode()),
        "ratings.json": ("application/json", json_of(leaderboard)),
        "leaderboard.html": ("text/html", html_of(leaderboard).encode()),
    }
    links = [
        f'<a download="{html.escape(name, quote=True)}" '
        f'href="data:{kind};base64,{base64.b64encode(data).decode()}">{html.escape(name)}</a>'
        for name, (kind, data) in files.items()
    ]
    return "<p>" + " · ".join(links) + "</p>"


def leaderboard_view(
    page: "gr.Blocks",
    read: Read,
    *,
    infos: Mapping[str, ModelInfo] | None = None,
    words: LeaderboardWords | None = None,
    interval_s: float = 10.0,
) -> None:
    """Adds the view to the page or tab that is being built.

    read: gives the leaderboard of now; asked at every choice and every `interval_s` seconds.
    """
    LeaderboardView(page, read, infos or {}, words or leaderboard_words()).build(interval_s)


class LeaderboardView:
    """The controls and what they do."""

    def __init__(
        self,
        page: "gr.Blocks",
        read: Read,
        infos: Mapping[str, ModelInfo],
        words: LeaderboardWords,
    ) -> None:
        self._page = page
        self._read = read
        self._infos = infos
        self._words = words

    def build(self, interval_s: float) -> None:
        import gradio as gr

        words = self._words
        summary = gr.HTML("")
        with gr.Row():
            category = gr.Dropdown(label=words.category, choices=[], interactive=True)
            search = gr.Textbox(label=words.search, placeholder=words.search_hint)
            style = gr.Checkbox(label=words.style, info=words.style_info)
            deprecated = gr.Checkbox(label=words.deprecated, visible=self._has_deprecated())
        chosen = [category, style, deprecated, search]
        table = gr.HTML("", elem_classes="ratings")
        timer = gr.Timer(interval_s)
        gr.on(
            [self._page.load, timer.tick, *(control.change for control in chosen)],
            self.refresh,
            chosen,
            [summary, category, table],
            **RAW,
        )
        self._plots(chosen)
        self._export(chosen)

    def _plots(self, chosen: "list[Any]") -> None:
        import gradio as gr

        words = self._words
        with gr.Accordion(words.plots, open=False) as plots:
            names = [(title, name) for name, title in words.figures.items()]
            which = gr.Dropdown(label=words.plot, choices=names, value="intervals")
            figure = gr.Plot(show_label=False)
        gr.on(
            [plots.expand, which.change, chosen[0].change, chosen[1].change],
            self._figure,
            [which, *chosen],
            [figure],
            **RAW,
        )

    def _export(self, chosen: "list[Any]") -> None:
        import gradio as gr

        with gr.Accordion(self._words.export, open=False):
            button = gr.Button(self._words.export_button)
            files = gr.HTML("")
        button.click(self._files, chosen, [files], **RAW)

    def _has_deprecated(self) -> bool:
        return any(info.deprecated for info in self._infos.values())

    def refresh(self, category: str, style: bool, deprecated: bool, search: str) -> list[Any]:
        """What the summary, the categories and the table show after a choice."""
        import gradio as gr

        words = self._words
        try:
            leaderboard = self._read()
        except FastChatError:
            return [f"<p>{html.escape(words.unavailable)}</p>", gr.skip(), gr.skip()]
        shown = _shown(category, style, deprecated, search)
        choices = categories_of(leaderboard, words)
        keys = [key for _, key in choices]
        value = category if category in keys else (keys[0] if keys else None)
        return [
            f"<p>{html.escape(self._summary(leaderboard))}</p>",
            gr.update(choices=choices, value=value),
            table_html(leaderboard, shown, words, self._infos),
        ]

    def _summary(self, leaderboard: Leaderboard) -> str:
        board = board_shown(leaderboard, Shown())
        known = leaderboard.updated_at is not None
        updated = leaderboard.updated if known else self._words.no_votes
        return self._words.summary.format(
            models=len(board.rows), votes=f"{board.n_votes:,}", updated=updated
        )

    def _figure(self, name: str, *chosen: Any) -> Any:
        import gradio as gr

        try:
            return figure_of(self._read(), _shown(*chosen), name)
        except FastChatError as error:
            gr.Warning(error.message)
            return gr.skip()

    def _files(self, *chosen: Any) -> Any:
        import gradio as gr

        try:
            return export_html(self._read(), _shown(*chosen))
        except FastChatError as error:
            gr.Warning(error.message)
            return gr.skip()


def _shown(category: Any, style: Any, deprecated: Any, search: Any) -> Shown:
    """What was chosen, whatever a browser sends."""
    return Shown(
        category=category if isinstance(category, str) else "",
        style=bool(style),
        deprecated=bool(deprecated),
        search=search if isinstance(search, str) else "",
    )
