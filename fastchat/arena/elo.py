"""Elo as published in 2023: votes one after the other, and the same over resamples."""

import math

import numpy as np

from fastchat.arena.votes import Floats, Votes
from fastchat.errors import UsageError

K_FACTOR = 4.0
SCALE = 400.0
START = 1000.0

_ROUNDS_AT_ONCE = 100
_BLOCK = 4096


def online_elo(votes: Votes, *, k: float = K_FACTOR) -> Floats:
    """(m,) ratings after all votes in their order: R_a += k (score - P), R_b -= the same.

    P = 1 / (1 + 10^((R_b - R_a) / 400)), and everyone starts at 1000. The loop runs in natural
    units, where this is one exponential a vote.
    """
    unit = math.log(10.0) / SCALE
    step, exp = k * unit, math.exp
    theta = [0.0] * len(votes.models)
    for a, b, score in zip(votes.a.tolist(), votes.b.tolist(), votes.score.tolist(), strict=True):
        ours, theirs = theta[a], theta[b]
        change = step * (score - 1.0 / (1.0 + exp(theirs - ours)))
        theta[a] = ours + change
        theta[b] = theirs - change
    return np.array(theta) / unit + START


def bootstrap_elo(
    votes: Votes, *, rounds: int = 100, seed: int = 42, k: float = K_FACTOR
) -> Floats:
    """(rounds, m) ratings after each resample of the votes with replacement, drawn in any order.

    All rounds go forward together, a vote of each at a time.

    Raises:
        UsageError: fewer than two rounds.
    """
    if rounds < 2:
        raise UsageError(f"--num-bootstrap {rounds} gives no interval; take 2 or more.")
    rng = np.random.default_rng(seed)
    parts = [
        _together(votes, min(_ROUNDS_AT_ONCE, rounds - first), rng, k)
        for first in range(0, rounds, _ROUNDS_AT_ONCE)
    ]
    return np.concatenate(parts)


def _together(votes: Votes, rounds: int, rng: np.random.Generator, k: float) -> Floats:
    n, m = len(votes), len(votes.models)
    unit = math.log(10.0) / SCALE
    theta = np.zeros(rounds * m)
    base = np.arange(rounds) * m
    scores = votes.score
    for start in range(0, n, _BLOCK):
        rows = rng.integers(0, n, (min(_BLOCK, n - start), rounds))
        first, second, score = base + votes.a[rows], base + votes.b[rows], scores[rows]
        for a, b, y in zip(first, second, score, strict=True):
            ours, theirs = theta[a], theta[b]
            change = k * unit * (y - 1.0 / (1.0 + np.exp(theirs - ours)))
            theta[a] = ours + change
            theta[b] = theirs - change
    return theta.reshape(rounds, m) / unit + START


def median_ratings(samples: Floats) -> Floats:
    """(m,) the median over rounds, rounded to whole points, halves up, as published."""
    return np.floor(np.median(samples, axis=0) + 0.5)
