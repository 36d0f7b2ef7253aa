"""Voters whose votes do not fit everybody's: a sequential test with a bounded false-alarm rate.

For a vote on a pair, the pair's decided votes are the history. Were the voter like the others,
the product over votes of 1 / (2 p), with p the share of the history at or above (or at or below)
the vote, would rarely grow; past 1 / alpha the voter is taken for an outlier. Ties say nothing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastchat.arena.counts import fold
from fastchat.arena.votes import WIN_A, WIN_B, Floats, Votes

if TYPE_CHECKING:
    import polars as pl

ALPHA = 0.05
FEWEST_VOTES = 5
MOST_VOTES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """A voter whose votes are left out."""

    judge: int
    """The voter's code."""
    n_votes: int
    evidence: float
    """The largest of the two products, at least 1 / alpha."""


def outliers(votes: Votes, judges: NDArray[np.int64], *, alpha: float = ALPHA) -> list[Outlier]:
    """The voters to leave out, the clearest first.

    votes: in the order of time. judges: (n,) who gave each, as codes.
    A share is no less than 1 / (n + 1) of a history of n votes, so that a vote without an equal is
    strong evidence and not an infinite one.
    """
    decided = np.flatnonzero((votes.outcome == WIN_A) | (votes.outcome == WIN_B))
    if not len(decided):
        return []
    order = decided[np.argsort(judges[decided], kind="stable")]
    voters, first, n = np.unique(judges[order], return_index=True, return_counts=True)
    steps = _log_steps(votes, order)
    place = np.arange(len(order)) - np.repeat(first, n)
    steps[:, place >= MOST_VOTES] = 0.0
    sums = np.cumsum(steps, axis=1)
    before = np.where(first > 0, sums[:, first - 1], 0.0)
    reached = np.maximum.reduceat(sums - np.repeat(before, n, axis=1), first, axis=1).max(axis=0)
    n_votes = np.bincount(judges, minlength=int(voters.max()) + 1)[voters]
    bad = np.flatnonzero((reached > np.log(1.0 / alpha)) & (n_votes >= FEWEST_VOTES))
    found = [
        Outlier(
            judge=int(voters[i]),
            n_votes=int(n_votes[i]),
            evidence=float(np.exp(min(reached[i], 700.0))),
        )
        for i in bad
    ]
    return sorted(found, key=lambda outlier: -outlier.evidence)


def _log_steps(votes: Votes, rows: NDArray[np.intp]) -> Floats:
    """(2, n) log 1 / (2 p) of each vote, with p the share of history at or above, at or below.

    Above is the side that won the pair more often, so that it does not matter which stood first.
    """
    wins = fold(votes).wins
    a, b = votes.a[rows], votes.b[rows]
    first_won = votes.outcome[rows] == WIN_A
    total = wins[a, b] + wins[b, a]
    for_favourite = first_won == (wins[a, b] >= wins[b, a])
    least = 1.0 / (total + 1.0)
    favourite = np.maximum(np.maximum(wins[a, b], wins[b, a]) / total, least)
    other = np.maximum(np.minimum(wins[a, b], wins[b, a]) / total, least)
    above = np.where(for_favourite, favourite, 1.0)
    below = np.where(for_favourite, 1.0, other)
    return -np.log(2.0 * np.stack([above, below]))


def first_votes_a_day(battles: "pl.DataFrame", n: int, *, time_zone: str = "UTC") -> "pl.DataFrame":
    """The battles without those past each judge's first n of a calendar day."""
    import polars as pl

    day = (
        pl.from_epoch((pl.col("tstamp") * 1e6).cast(pl.Int64), time_unit="us")
        .dt.replace_time_zone("UTC")
        .dt.convert_time_zone(time_zone)
        .dt.date()
    )
    place = pl.int_range(pl.len()).over("judge", day)
    return battles.filter(pl.col("judge").is_null() | pl.col("tstamp").is_null() | (place < n))
