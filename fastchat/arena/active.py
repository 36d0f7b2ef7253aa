"""Which pair to let battle next, so that the intervals of the ratings shrink fastest.

One more battle of i and j adds h (e_i - e_j)(e_i - e_j)^T to the information, with h = p (1 - p).
By the Sherman-Morrison formula the covariance A loses h A d d^T A / (1 + h d^T A d), d = e_i -
e_j, so that what every possible pair gains is known before any is played. The gain is measured
in the mean width of the intervals. Source: optimal design, Pukelsheim 1993, chapter 9.
"""

import numpy as np
from numpy.typing import NDArray

from fastchat.arena.counts import Counts, counts_of
from fastchat.arena.rating import RIDGE, information, inverse, solve, win_probabilities
from fastchat.arena.votes import Floats


def pair_gains(counts: Counts) -> Floats:
    """(m, m) symmetric: by how much one more battle of the two narrows the intervals together.

    The unit is that of theta; only the ratio between pairs matters. Models that have no battle yet
    are as uncertain as the ridge's prior leaves them, which makes them gain most.
    """
    if not counts.models:
        return np.zeros((0, 0))
    theta, covariance = _state(counts)
    return _gains(win_probabilities(theta), covariance)


def choose_pairs(
    counts: Counts, n: int, *, rng: np.random.Generator | None = None
) -> list[tuple[int, int]]:
    """The next n pairs to battle, each the best one given those before it.

    rng: decides between pairs that gain the same, and which of the two comes first; None leaves
        the lower code first.
    """
    if (m := len(counts.models)) < 2:
        return []
    theta, covariance = _state(counts)
    p = win_probabilities(theta)
    chosen: list[tuple[int, int]] = []
    for _ in range(n):
        gains = np.triu(_gains(p, covariance), 1)
        best = np.flatnonzero(gains.ravel() >= gains.max() * (1 - 1e-9))
        pick = int(best[0] if rng is None else rng.choice(best))
        i, j = divmod(pick, m)
        covariance = _after(covariance, i, j, float(p[i, j] * p[j, i]))
        chosen.append((j, i) if rng is not None and rng.random() < 0.5 else (i, j))
    return chosen


def pair_chances(counts: Counts, *, sharpness: float = 4.0) -> Floats:
    """(m, m) symmetric chances to be drawn, summing to 1 over pairs row < column.

    They grow with a power of the gain: every pair keeps some chance, so that nobody can foretell
    who meets whom, and the useful ones are drawn most.
    """
    gains = pair_gains(counts)
    upper = np.triu(gains, 1)
    if not upper.any():
        return upper
    chances = (upper / upper.max()) ** sharpness
    chances /= chances.sum()
    return chances + chances.T


def expected_widths(counts: Counts) -> Floats:
    """(m,) standard errors of theta that the votes so far leave, by the information alone."""
    _, covariance = _state(counts)
    return np.sqrt(np.maximum(np.diag(covariance), 0.0))


def _state(counts: Counts) -> tuple[Floats, Floats]:
    """Theta and its covariance, both with the ridge: every model is somewhere."""
    m = len(counts.models)
    if m < 2:
        return np.zeros(m), np.zeros((m, m))
    theta = solve(counts, ridge=RIDGE)
    p = win_probabilities(theta)
    inverted = inverse(information(counts.battles, p, ridge=RIDGE))
    centring = np.eye(m) - 1.0 / m
    return theta, centring @ inverted @ centring


def _gains(p: Floats, covariance: Floats) -> Floats:
    """(m, m) what a battle of each pair takes off the sum of standard errors, to first order."""
    spread = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    weighted = covariance / np.sqrt(spread)[:, None]
    scatter = weighted.T @ weighted
    own = np.diag(scatter)
    reduction = own[:, None] + own[None, :] - 2.0 * scatter
    variance = np.diag(covariance)
    of_difference = variance[:, None] + variance[None, :] - 2.0 * covariance
    h = p * p.T
    gains = 0.5 * h * reduction / (1.0 + h * of_difference)
    np.fill_diagonal(gains, 0.0)
    return np.maximum(gains, 0.0)


def _after(covariance: Floats, i: int, j: int, h: float) -> Floats:
    """The covariance after one more battle of i and j."""
    column = covariance[:, i] - covariance[:, j]
    of_difference = float(column[i] - column[j])
    return covariance - h / (1.0 + h * of_difference) * np.outer(column, column)


def without_battles(models: tuple[str, ...]) -> Counts:
    """The counts of models that nobody has compared yet."""
    nothing: NDArray[np.float64] = np.zeros((len(models), len(models)))
    return counts_of(models, nothing, nothing.copy())
