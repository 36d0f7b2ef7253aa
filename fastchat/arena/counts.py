"""Votes folded into a matrix: how often each model beat each other one, and how often they tied.

A Bradley-Terry fit needs no more than this, so that a million votes cost it as much as a hundred.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastchat.arena.votes import BOTH_BAD, TIE, WIN_A, WIN_B, Codes, Floats, Votes

_BLOCK = 1 << 16
"""Rows folded at once: what is computed of them stays in the processor's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Sums of votes over pairs of models; m models.

    Attributes:
        models: names by code.
        wins: (m, m), summed weight of the votes in which the row beat the column.
        ties: (m, m), symmetric, summed weight of the ties of the two.
        wins_squared, ties_squared: the same sums of squared weights, which the variance of a
            weighted fit needs; the same arrays where every vote counts once.
    """

    models: tuple[str, ...]
    wins: Floats
    ties: Floats
    wins_squared: Floats
    ties_squared: Floats

    @property
    def score(self) -> Floats:
        """(m, m) what the row got against the column: wins and half of the ties."""
        return self.wins + 0.5 * self.ties

    @property
    def battles(self) -> Floats:
        """(m, m) symmetric, how much the two met."""
        return self.wins + self.wins.T + self.ties

    @property
    def total(self) -> float:
        """All votes together."""
        return float(self.wins.sum() + 0.5 * self.ties.sum())


def counts_of(models: Sequence[str], wins: Floats, ties: Floats) -> Counts:
    """Counts in which every vote counts once."""
    return Counts(models=tuple(models), wins=wins, ties=ties, wins_squared=wins, ties_squared=ties)


def fold(votes: Votes) -> Counts:
    """The counts of the votes."""
    m = len(votes.models)
    if votes.weight is None:
        wins, ties = _matrices(_cells(votes, m), m)
        return counts_of(votes.models, wins, ties)
    code = _cell_codes(votes.a, votes.b, votes.outcome, m)
    sums = np.bincount(code, votes.weight, 4 * m * m)
    squares = np.bincount(code, votes.weight**2, 4 * m * m)
    wins, ties = _matrices(sums, m)
    wins_squared, ties_squared = _matrices(squares, m)
    return Counts(
        models=votes.models,
        wins=wins,
        ties=ties,
        wins_squared=wins_squared,
        ties_squared=ties_squared,
    )


def _cells(votes: Votes, m: int) -> NDArray[np.int64]:
    """(4 m m,) how often each outcome of each ordered pair was seen."""
    cells = np.zeros(4 * m * m, np.int64)
    step = max(_BLOCK, 2 * len(cells))
    for start in range(0, len(votes), step):
        part = slice(start, start + step)
        code = _cell_codes(votes.a[part], votes.b[part], votes.outcome[part], m)
        cells += np.bincount(code, minlength=len(cells))
    return cells


def _cell_codes(a: Codes, b: Codes, outcome: NDArray[np.int8], m: int) -> NDArray[np.intp]:
    """(n,) the place of each vote among the cells: outcome, then first, then second model."""
    code = outcome.astype(np.intp)
    code *= m
    code += a
    code *= m
    code += b
    return code


def _matrices(cells: NDArray[np.int64] | Floats, m: int) -> tuple[Floats, Floats]:
    """Wins and ties of the cells."""
    by_outcome = cells.reshape(4, m, m)
    wins = (by_outcome[WIN_A] + by_outcome[WIN_B].T).astype(np.float64)
    ties = by_outcome[TIE] + by_outcome[BOTH_BAD]
    return wins, (ties + ties.T).astype(np.float64)


def among_met(counts: Counts) -> Counts:
    """The counts of the models that met somebody."""
    keep = np.asarray(counts.battles.any(axis=1))
    if keep.all():
        return counts
    at = np.ix_(keep, keep)
    return Counts(
        models=tuple(name for name, kept in zip(counts.models, keep, strict=True) if kept),
        wins=counts.wins[at],
        ties=counts.ties[at],
        wins_squared=counts.wins_squared[at],
        ties_squared=counts.ties_squared[at],
    )


def reweighted(counts: Counts, *, floor: float = 50.0) -> Counts:
    """Counts in which every vote of a pair is divided by max(votes of the pair, floor).

    A pair that met often then weighs as much as one that met `floor` times or more; the weights
    are scaled to a mean of 1. Source: arena-rank 0.1.1, its re-weighting.
    """
    weight = _pair_weights(counts, floor)
    return Counts(
        models=counts.models,
        wins=counts.wins * weight,
        ties=counts.ties * weight,
        wins_squared=counts.wins_squared * weight**2,
        ties_squared=counts.ties_squared * weight**2,
    )


def reweighted_votes(votes: Votes, *, floor: float = 50.0) -> Votes:
    """The votes with weights that fold into the `reweighted` counts."""
    weight = _pair_weights(fold(votes), floor)[votes.a, votes.b]
    return replace(votes, weight=weight if votes.weight is None else weight * votes.weight)


def _pair_weights(counts: Counts, floor: float) -> Floats:
    """(m, m) what a vote of the pair weighs, 1 on average over the votes."""
    battles = counts.battles
    weight = 1.0 / np.maximum(battles, floor)
    total = 0.5 * float((battles * weight).sum())
    return weight * (counts.total / total) if total > 0 else weight


def win_fractions(counts: Counts) -> Floats:
    """(m, m) the row's share of the decided battles of the two; NaN where they have none."""
    decided = counts.wins + counts.wins.T
    fractions = np.full_like(decided, np.nan)
    np.divide(counts.wins, decided, out=fractions, where=decided > 0)
    return fractions


def average_win_rates(counts: Counts) -> Floats:
    """(m,) the mean of a model's win fractions over the models it met; NaN without any."""
    fractions = win_fractions(counts)
    met = np.isfinite(fractions)
    sums = np.where(met, fractions, 0.0).sum(axis=1)
    rates = np.full(len(fractions), np.nan)
    np.divide(sums, met.sum(axis=1), out=rates, where=met.any(axis=1))
    return rates
