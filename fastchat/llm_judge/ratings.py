"""Bradley-Terry ratings from judge votes, with intervals over questions."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fastchat.arena.connection import connection
from fastchat.arena.counts import counts_of
from fastchat.arena.rating import MEAN, POINTS, RIDGE, fit, solve
from fastchat.llm_judge.intervals import LEVEL, Floats, codes, draws
from fastchat.llm_judge.records import PairJudgment

ROUNDS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A model's strength in rating points; the mean of all is 1000."""

    model: str
    rating: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingTable:
    """Ratings, best first."""

    ratings: tuple[Rating, ...]
    notes: tuple[str, ...]
    """What keeps ratings from being determined by the votes alone."""


def rate(rows: Iterable[PairJudgment], *, rounds: int = ROUNDS, seed: int = 0) -> RatingTable:
    """Ratings of the models in `rows`; a tie is half a win, rows without a verdict are left out.

    Intervals are the percentiles of fits to questions drawn anew: verdicts on one question
    belong together, which the arena's own intervals, of independent votes, do not know.
    """
    held = [row for row in rows if row.is_parsed]
    names = sorted({name for row in held for name in (row.model_1, row.model_2)})
    if len(names) < 2:
        return RatingTable(ratings=(), notes=())
    place = {name: i for i, name in enumerate(names)}
    question, n_questions = codes([row.question_id for row in held])
    wins = np.zeros((n_questions, len(names), len(names)))
    ties = np.zeros_like(wins)
    for q, row in zip(question, held, strict=True):
        i, j = place[row.model_1], place[row.model_2]
        match row.winner:
            case "model_1":
                wins[q, i, j] += 1
            case "model_2":
                wins[q, j, i] += 1
            case _:
                ties[q, i, j] += 1
                ties[q, j, i] += 1
    fitted = fit(counts_of(names, wins.sum(axis=0), ties.sum(axis=0)))
    found: list[Floats] = []
    for weights in draws(n_questions, rounds, seed):
        counts = counts_of(names, _sum(weights, wins), _sum(weights, ties))
        ridge = 0.0 if fitted.ridge is None and connection(counts).is_finite else RIDGE
        found.append(solve(counts, ridge=ridge, start=fitted.theta) * POINTS + MEAN)
    lower, upper = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    table = [
        Rating(
            model=name,
            rating=float(fitted.rating[i]),
            lower=float(lower[i]),
            upper=float(upper[i]),
        )
        for i, name in enumerate(fitted.models)
    ]
    return RatingTable(
        ratings=tuple(sorted(table, key=lambda r: -r.rating)),
        notes=tuple(fitted.connection.lines()),
    )


def _sum(weights: Floats, matrices: Floats) -> Floats:
    """(m, m): the matrices of all questions, each as often as it was drawn."""
    return np.asarray(np.tensordot(weights, matrices, axes=1), float)
