"""Bootstrap intervals: the votes drawn again from themselves, many times, and rated each time.

Resamples are exact draws of the multinomial distribution over (pair, outcome), made the quick
way: independent Poisson counts, conditioned on staying below the number of votes, are multinomial
given their sum, and what is missing is drawn vote by vote.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_solve

from fastchat.arena.connection import connection
from fastchat.arena.counts import Counts, among_met, counts_of
from fastchat.arena.rating import (
    MEAN,
    POINTS,
    RIDGE,
    Ratings,
    anchored,
    factored,
    fit,
    information,
    solve,
    win_probabilities,
)
from fastchat.arena.tie_models import TieModel, fit_with_ties, parameters_of, resolved
from fastchat.arena.votes import Floats
from fastchat.errors import ModelError, UsageError

Sample = tuple[Floats, Floats]
"""Wins and ties of a resample, (m, m) each."""

_FEW_VOTES = 10_000
"""Below this many votes numpy's own multinomial is used."""
_MARGIN = 5.0
"""Standard deviations by which the Poisson counts are kept below the number of votes."""
_CLOSE = 1e-5
_FARTHEST = 10.0
_CHORD_STEPS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """What may be drawn: the pairs that met, three outcomes each; k pairs."""

    pairs: tuple[np.ndarray, np.ndarray]
    """(k,) the rows and columns of the pairs, row below column."""
    votes: Floats
    """(3 k,) how many votes: wins of the row, of the column, ties."""
    weight: Floats
    """(3 k,) what one such vote weighs."""


def bootstrap_ratings(
    counts: Counts,
    *,
    rounds: int = 100,
    seed: int = 0,
    anchor: tuple[str, float] | None = None,
    ties: TieModel | None = None,
    threads: int = 1,
) -> Ratings:
    """Ratings of all votes with the 2.5 % and 97.5 % quantiles of `rounds` resamples.

    In each resample the mean is 1000 as in the ratings; an anchor moves all of them alike.

    ties: a model in which a tie is an outcome of its own, whose parameter keeps its sandwich
        interval; None takes a tie as half a win.
    threads: how many resamples are fitted at a time; the intervals do not depend on it.

    Raises:
        UsageError: fewer than two rounds; the anchor has no vote.
    """
    if rounds < 2:
        raise UsageError(f"--num-bootstrap {rounds} gives no interval; take 2 or more.")
    if ties is None:
        ratings = fit(counts)
        thetas = bootstrap(counts, rounds=rounds, seed=seed, ratings=ratings, threads=threads)
    else:
        ratings = fit_with_ties(counts, ties)
        samples = resamples(among_met(counts), rounds=rounds, seed=seed)
        thetas = _bootstrap_with_ties(samples, ties, ratings, rounds=rounds, threads=threads)
    points = POINTS * thetas + MEAN
    lower, upper = np.quantile(points, [0.025, 0.975], axis=0)
    ratings = replace(ratings, lower=lower, upper=upper, variance=points.var(axis=0, ddof=1))
    return ratings if anchor is None else anchored(ratings, anchor[0], anchor[1])


def bootstrap(
    counts: Counts,
    *,
    rounds: int = 100,
    seed: int = 0,
    ratings: Ratings | None = None,
    threads: int = 1,
) -> Floats:
    """(rounds, m) theta of each resample of the votes, for the models that met somebody.

    ratings: the fit of all votes, where it is there already.
    """
    ratings = ratings or fit(counts)
    counts = among_met(counts)
    if len(counts.models) < 2:
        return np.zeros((rounds, len(counts.models)))
    chord = _Chord(counts, ratings)
    samples = resamples(counts, rounds=rounds, seed=seed)
    return np.stack(list(_in_threads(chord.fit, samples, threads)))


def _bootstrap_with_ties(
    samples: Iterator[Sample], ties: TieModel, ratings: Ratings, *, rounds: int, threads: int
) -> Floats:
    """(rounds, m) theta of each resample under a model of ties."""
    models = ratings.models
    if len(models) < 2:
        return np.zeros((rounds, len(models)))
    start = parameters_of(ratings)

    def fitted(sample: Sample) -> Floats:
        return resolved(counts_of(models, *sample), ties, start=start)

    return np.stack(list(_in_threads(fitted, samples, threads)))


def _in_threads(
    work: Callable[[Sample], Floats], samples: Iterator[Sample], threads: int
) -> Iterator[Floats]:
    """What `work` makes of each, in their order, few of them at a time in memory.

    Most of the work is numpy's, which lets other threads run meanwhile.
    """
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(itertools.islice(samples, 4 * threads)):
            yield from pool.map(work, batch)


def resamples(counts: Counts, *, rounds: int, seed: int) -> Iterator[Sample]:
    """Wins and ties, (m, m) each, of as many votes drawn from these with replacement.

    Weighted votes of one cell are drawn as equal votes of the same total weight and variance.
    """
    cells = _cells(counts)
    rng = np.random.Generator(np.random.SFC64(seed))
    n_votes = round(float(cells.votes.sum()))
    m, (row, column) = len(counts.models), cells.pairs
    for _ in range(rounds):
        drawn = (_draw(rng, cells.votes, n_votes) * cells.weight).reshape(3, -1)
        wins, ties = np.zeros((m, m)), np.zeros((m, m))
        wins[row, column], wins[column, row] = drawn[0], drawn[1]
        ties[row, column] = ties[column, row] = drawn[2]
        yield wins, ties


def _cells(counts: Counts) -> _Cells:
    row, column = np.nonzero(np.triu(counts.battles, 1))
    pairs, turned = (row, column), (column, row)
    sums = np.concatenate([counts.wins[pairs], counts.wins[turned], counts.ties[pairs]])
    squares = [counts.wins_squared[pairs], counts.wins_squared[turned], counts.ties_squared[pairs]]
    weight = np.ones(len(sums))
    np.divide(np.concatenate(squares), sums, out=weight, where=sums > 0)
    return _Cells(pairs=pairs, votes=sums / weight, weight=weight)


def _draw(rng: np.random.Generator, votes: Floats, n_votes: int) -> Floats:
    """(cells,) a multinomial draw of `n_votes` with chances in proportion to `votes`."""
    if n_votes < _FEW_VOTES:
        return rng.multinomial(n_votes, votes / votes.sum()).astype(np.float64)
    rate = votes * (n_votes / votes.sum()) * (1.0 - _MARGIN / np.sqrt(n_votes))
    drawn = rng.poisson(rate)
    while (missing := n_votes - int(drawn.sum())) < 0:
        drawn = rng.poisson(rate)
    ends = np.cumsum(votes)
    places = np.searchsorted(ends, rng.random(missing) * ends[-1], side="right")
    drawn += np.bincount(np.minimum(places, len(votes) - 1), minlength=len(votes))
    return drawn.astype(np.float64)


class _Chord:
    """Fits resamples from the fit of all votes, whose curvature serves them all.

    A resample's curvature differs by a few percent, so that each step leaves a few percent of
    the error. Where that fails (few votes, a resample that bounds nothing), Newton's method does.
    """

    def __init__(self, counts: Counts, ratings: Ratings) -> None:
        self._counts = counts
        self._ridge = ratings.ridge or 0.0
        self._theta = ratings.theta
        p = win_probabilities(ratings.theta)
        self._factor = factored(information(counts.battles, p, ridge=self._ridge))

    def fit(self, sample: Sample) -> Floats:
        """(m,) theta of one resample, mean 0."""
        wins, ties = sample
        score = wins + 0.5 * ties
        battles = score + score.T
        won = score.sum(axis=1)
        theta = self._theta
        for _ in range(_CHORD_STEPS):
            gradient = won - (battles * win_probabilities(theta)).sum(axis=1) - self._ridge * theta
            step = cho_solve(self._factor, gradient, check_finite=False)
            theta = theta + (step - step.mean())
            longest = float(np.abs(step).max())
            if longest <= _CLOSE:
                return theta
            if not longest < _FARTHEST or np.abs(theta).max() > _FARTHEST:
                break
        return self._by_newton(counts_of(self._counts.models, wins, ties))

    def _by_newton(self, sample: Counts) -> Floats:
        ridge = self._ridge or (0.0 if connection(sample).is_finite else RIDGE)
        try:
            return solve(sample, ridge=ridge)
        except ModelError:
            return solve(sample, ridge=RIDGE)
