"""Leaderboards: rated tables of models, a board for each category, with and without style.

`build` goes from battles to boards; the record is plain data that goes to JSON and back, so that
a page, a file and a live update show the same thing. No pickle is read or written.
"""

import datetime
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fastchat.arena.bootstrap import bootstrap_ratings
from fastchat.arena.categories import Category
from fastchat.arena.connection import Connection
from fastchat.arena.context import features_of
from fastchat.arena.counts import (
    Counts,
    average_win_rates,
    fold,
    reweighted,
    reweighted_votes,
    win_fractions,
)
from fastchat.arena.elo import bootstrap_elo, median_ratings, online_elo
from fastchat.arena.rating import Ratings, TieParameter, anchored, fit, ranks
from fastchat.arena.style_control import StyleRatings, bootstrap_style, fit_style
from fastchat.arena.tie_models import TieModel, fit_with_ties
from fastchat.arena.votes import Floats, Votes, votes_from_frame

if TYPE_CHECKING:
    import polars as pl

STYLE_SUFFIX = "_style_control"
FEATURES_SUFFIX = "_features"
"""Of a board that holds columns of the battles apart, and not style."""

System = Literal["bt", "elo"]
Interval = Literal["sandwich", "bootstrap"]
Ties = Literal["half", "davidson", "rao-kupper"]
"""A tie as half a win for each, or as an outcome of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model on a board; ratings in points."""

    model: str
    rating: float
    lower: float
    upper: float
    variance: float
    rank: int
    n_battles: int
    win_rate: float | None
    """Mean over opponents of the share of decided battles it won; None without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One category's table, best model first.

    Attributes:
        key, title, description: of the category; the key of a board with style control ends in
            `_style_control`.
        win_fractions: row's share of decided battles against the column, None where there are
            none; in the order of `rows`.
        battles: how often the two met.
        coefficients: of style features: natural log-odds a standard deviation, lower, upper.
        tie: the tie parameter, where a tie is an outcome of its own.
        notes: what the reader should know, such as groups that never met.
    """

    key: str
    title: str
    description: str = ""
    rows: tuple[Row, ...] = ()
    n_votes: int = 0
    win_fractions: tuple[tuple[float | None, ...], ...] = ()
    battles: tuple[tuple[int, ...], ...] = ()
    coefficients: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    tie: TieParameter | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_style_controlled(self) -> bool:
        """Whether style was held apart."""
        return self.key.endswith(STYLE_SUFFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """All boards of one moment.

    Attributes:
        boards: by key; the first is the one a page shows first.
        history: moments (seconds, UTC) with the ratings of the first board's models so far.
        anchor: the model whose rating was set, or None where the mean is 1000.
        refused: rows that were no battles or were filtered out, by reason.
    """

    boards: Mapping[str, Board]
    updated_at: float | None = None
    """Time of the last vote, seconds UTC."""
    system: System = "bt"
    interval: Interval = "sandwich"
    ties: Ties = "half"
    anchor: str | None = None
    history: tuple[tuple[float, Mapping[str, float]], ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def first(self) -> Board:
        """The board a page shows first; an empty one where there is none."""
        return next(iter(self.boards.values()), Board(key="full", title="Overall"))

    @property
    def updated(self) -> str:
        """Time of the last vote, in words."""
        if self.updated_at is None:
            return "no votes yet"
        moment = datetime.datetime.fromtimestamp(self.updated_at, datetime.UTC)
        return moment.strftime("%Y-%m-%d %H:%M UTC")


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How boards are rated."""

    system: System = "bt"
    interval: Interval = "sandwich"
    ties: Ties = "half"
    """Of Bradley-Terry; boards with style control take a tie as half a win."""
    rounds: int = 100
    seed: int = 42
    threads: int = 1
    """Resamples of plain boards that are fitted at a time."""
    anchor: tuple[str, float] | None = None
    reweight: bool = False
    style: bool = False
    """Add a board with style control for each category."""
    features: tuple[str, ...] = ()
    """Columns of the battles that the added board holds apart, beside style or without it."""
    feature_ridge: float = 0.0
    """Penalty on the coefficients of style and features, as of `fit_style`."""
    moments: int = 0
    """How many points in time the rating over time has; 0 leaves it out."""


def build(
    battles: "pl.DataFrame",
    categories: Sequence[Category],
    *,
    method: Method | None = None,
    refused: Mapping[str, int] | None = None,
) -> Leaderboard:
    """The leaderboard of battles, a board for each category that the battles can tell.

    battles: as of `battle_files`, those that count, in the order of time.

    Raises:
        UsageError: the anchor has no vote in the first category.
    """
    method = method or Method()
    boards: dict[str, Board] = {}
    for i, category in enumerate(categories):
        part = _part(battles, category)
        found = _boards(part, category, method, is_first=i == 0)
        if missing := category.missing(battles):
            note = f"these battles tell nothing of {', '.join(missing)}, which it needs."
            found = [replace(board, notes=(note,)) for board in found]
        boards |= {board.key: board for board in found}
    last = battles["tstamp"].max() if battles.height else None
    first = _part(battles, categories[0]) if categories and method.moments else None
    return Leaderboard(
        boards=boards,
        updated_at=float(last) if isinstance(last, int | float) else None,
        system=method.system,
        interval=method.interval,
        ties=method.ties,
        anchor=method.anchor[0] if method.anchor else None,
        history=() if first is None else history(first, method),
        refused=dict(Counter(refused or {})),
    )


def _part(battles: "pl.DataFrame", category: Category) -> "pl.DataFrame":
    """The battles of the category; none where they do not tell what it asks."""
    if category.missing(battles) or not set(category.needs) <= set(battles.columns):
        return battles.clear()
    return category.select(battles)


def _boards(
    part: "pl.DataFrame", category: Category, method: Method, *, is_first: bool
) -> list[Board]:
    """The category's board; where it is known, the one with style or features apart before it."""
    votes = votes_from_frame(part)
    counts = fold(votes)
    if not is_first and method.anchor and method.anchor[0] not in votes.models:
        method = replace(method, anchor=None)
    plain = board_of(rate(votes, counts, method), counts, key=category.key, title=category.title)
    found = [replace(plain, description=category.description)]
    if method.style or method.features:
        apart = _board_apart(part, category, method)
        found.insert(0 if apart.rows else 1, apart)
    return found


def rate(votes: Votes, counts: Counts, method: Method) -> Ratings:
    """The ratings of votes by the method."""
    if method.system == "elo":
        return _elo_ratings(votes, method)
    if method.reweight:
        counts = reweighted(counts)
    if method.interval == "bootstrap":
        return bootstrap_ratings(
            counts,
            rounds=method.rounds,
            seed=method.seed,
            anchor=method.anchor,
            ties=_tie_model(method.ties),
            threads=method.threads,
        )
    return _fitted(counts, method.ties, method.anchor)


def _tie_model(ties: Ties) -> TieModel | None:
    return None if ties == "half" else ties


def _fitted(counts: Counts, ties: Ties, anchor: tuple[str, float] | None) -> Ratings:
    """Bradley-Terry ratings with sandwich intervals."""
    if (model := _tie_model(ties)) is None:
        return fit(counts, anchor=anchor)
    return fit_with_ties(counts, model, anchor=anchor)


def _elo_ratings(votes: Votes, method: Method) -> Ratings:
    """Elo over resamples: medians, and their 95 % quantiles, as published."""
    if not len(votes):
        return fit(fold(votes))
    samples = bootstrap_elo(votes, rounds=method.rounds, seed=method.seed)
    lower, upper = np.quantile(samples, [0.025, 0.975], axis=0)
    found = Ratings(
        models=votes.models,
        theta=online_elo(votes),
        rating=median_ratings(samples),
        lower=lower,
        upper=upper,
        variance=samples.var(axis=0),
        n_battles=fold(votes).battles.sum(axis=1),
        connection=Connection(components=(votes.models,)),
    )
    return anchored(found, *method.anchor) if method.anchor else found


def _board_apart(part: "pl.DataFrame", category: Category, method: Method) -> Board:
    """The category's board with style or features held apart, of the battles that tell them."""
    key = category.key + (STYLE_SUFFIX if method.style else FEATURES_SUFFIX)
    apart = [*(["style control"] if method.style else []), *method.features]
    title = f"{category.title}, {', '.join(apart)}"
    known, features, names = features_of(part, method.features, style=method.style)
    votes = votes_from_frame(known)
    anchor = method.anchor if method.anchor and method.anchor[0] in votes.models else None
    found = _rated_apart(votes, features, names, replace(method, anchor=anchor))
    board = board_of(found.ratings, fold(votes), key=key, title=title)
    notes = (*board.notes, *_style_notes(found, part.height - known.height))
    held = [*(["length and markdown of answers"] if method.style else []), *method.features]
    described = f"{category.description} Held apart: {', '.join(held)}."
    low, high = found.lower.tolist(), found.upper.tolist()
    values = zip(found.coefficient.tolist(), low, high, strict=True)
    coefficients = dict(zip(found.names, values, strict=True))
    return replace(board, notes=notes, description=described, coefficients=coefficients)


def _rated_apart(
    votes: Votes, features: Floats, names: Sequence[str], method: Method
) -> StyleRatings:
    """Ratings beside the features' coefficients, by the method."""
    weighed = reweighted_votes(votes) if method.reweight else votes
    anchor, ridge = method.anchor, method.feature_ridge
    if method.interval == "sandwich":
        return fit_style(weighed, features, names, anchor=anchor, ridge=ridge)
    rounds, seed = method.rounds, method.seed
    return bootstrap_style(
        weighed, features, names, rounds=rounds, seed=seed, anchor=anchor, ridge=ridge
    )


def _style_notes(found: StyleRatings, n_unknown: int) -> list[str]:
    notes: list[str] = []
    if n_unknown:
        notes.append(f"{n_unknown} battles do not tell all that is held apart and are left out.")
    if found.dropped:
        notes.append(f"no difference between the sides in {', '.join(found.dropped)}.")
    if found.ridge is not None:
        notes.append(
            "what is held apart foretells the votes; its coefficients have a ridge of "
            f"{found.ridge}."
        )
    return notes


def board_of(ratings: Ratings, counts: Counts, *, key: str, title: str) -> Board:
    """The board of ratings and of the counts they come from, best model first."""
    order = np.argsort(-ratings.rating, kind="stable")
    place = {name: i for i, name in enumerate(counts.models)}
    rated = [place[ratings.models[i]] for i in order]
    at = np.ix_(rated, rated)
    fractions, met = win_fractions(counts)[at], counts.battles[at]
    rates = average_win_rates(counts)[rated]
    rank = ranks(ratings.lower, ratings.upper)
    rows = tuple(
        Row(
            model=ratings.models[i],
            rating=float(ratings.rating[i]),
            lower=float(ratings.lower[i]),
            upper=float(ratings.upper[i]),
            variance=float(ratings.variance[i]),
            rank=int(rank[i]),
            n_battles=round(float(counts.battles[place[ratings.models[i]]].sum())),
            win_rate=_known(rates[n]),
        )
        for n, i in enumerate(order)
    )
    return Board(
        key=key,
        title=title,
        rows=rows,
        n_votes=round(counts.total),
        win_fractions=tuple(tuple(map(_known, row)) for row in fractions.tolist()),
        battles=tuple(tuple(map(round, row)) for row in met.tolist()),
        tie=ratings.tie,
        notes=_notes(ratings),
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _notes(ratings: Ratings) -> tuple[str, ...]:
    """What the reader of the ratings should know."""
    if not ratings.models:
        return ("no battles yet.",)
    lines = ratings.connection.lines()
    if ratings.ridge is not None:
        lines.append(
            f"where votes do not bound a rating, a ridge of {ratings.ridge} (a prior of 550 points "
            "about the mean) does."
        )
    if ratings.tie is not None:
        lines.append(f"a tie is an outcome of its own; {_shown(ratings.tie)}.")
    return tuple(lines)


def _shown(tie: TieParameter) -> str:
    reach = "" if tie.lower is None else f" ({tie.lower:.3f} to {tie.upper:.3f})"
    return f"how often equal models tie: {tie.name} {tie.value:.3f}{reach}"


def history(
    battles: "pl.DataFrame", method: Method
) -> tuple[tuple[float, Mapping[str, float]], ...]:
    """Ratings of all votes up to so many moments, evenly spread over the votes' time."""
    timed = battles.filter(battles["tstamp"].is_not_null())
    if timed.height < 2:
        return ()
    votes = votes_from_frame(timed)
    times = timed["tstamp"].to_numpy()
    found: list[tuple[float, Mapping[str, float]]] = []
    for moment in np.linspace(times[0], times[-1], method.moments + 1)[1:]:
        upto = int(np.searchsorted(times, moment, side="right"))
        ratings = _fitted(fold(votes.take(np.arange(upto))), method.ties, None)
        if method.anchor and method.anchor[0] in ratings.models:
            ratings = anchored(ratings, *method.anchor)
        found.append((float(moment), _by_model(ratings.models, ratings.rating)))
    return tuple(found)


def _by_model(models: Sequence[str], values: Floats) -> dict[str, float]:
    return dict(zip(models, values.tolist(), strict=True))


def ratings_of(board: Board, value: Callable[[Row], Any]) -> dict[str, Any]:
    """A value of each row by model."""
    return {row.model: value(row) for row in board.rows}
