"""The fewest votes that any choice of pairs needs to a mean interval, the true ratings known.

A vote on i and j carries at most h^2 / v of information on theta_i - theta_j, with h = p (1 - p)
and v the variance of its outcome (a tie counts a half). The intervals of any design are then no
narrower than those of the inverse of that information (Gauss and Markov; the sandwich cannot be
narrower). The mean of the standard errors is convex in the shares of the pairs, each being one over
the root of something concave. So the optimal shares are found by multiplicative steps, and the
linear bound at them says how far below the optimum could be. Source: Pukelsheim 1993, "Optimal
design of experiments", chapters 3 and 9; Titterington 1978 for the steps.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

_STEPS = 400
_GAP = 1e-3
"""Relative distance from the linear bound at which the shares are good enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """What is known of the pairs; k = m (m - 1) / 2 of them in the order of `numpy.triu_indices`.

    Attributes:
        m: models.
        information: (k,) of one vote on each pair.
        before: (m, m) information of the votes that are there already.
    """

    m: int
    information: Any
    before: Any

    def covariance(self, votes: Any) -> Any:
        """(m, m) of theta about its mean, after so many more votes, (k,), of each pair."""
        pairs = np.triu_indices(self.m, 1)
        joined = np.zeros((self.m, self.m))
        joined[pairs] = votes * self.information
        joined += joined.T
        matrix = np.diag(joined.sum(axis=1)) - joined + self.before
        lift = np.trace(matrix) / self.m**2
        return np.linalg.inv(matrix + lift) - 1.0 / (lift * self.m**2)


def information_of(theta: Any, ties: float) -> Any:
    """(k,) h^2 / v of each pair, where 2 `ties` min(p, 1 - p) of its votes are ties."""
    first, second = np.triu_indices(len(theta), 1)
    p = 1.0 / (1.0 + np.exp(theta[second] - theta[first]))
    h = p * (1.0 - p)
    return h**2 / (h - 0.5 * ties * np.minimum(p, 1.0 - p))


def laplacian(battles: Any, information: Any) -> Any:
    """(m, m) information of votes: (m, m) symmetric counts, (k,) of one vote on each pair."""
    joined = np.zeros(battles.shape)
    pairs = np.triu_indices(len(battles), 1)
    joined[pairs] = battles[pairs] * information
    joined += joined.T
    return np.diag(joined.sum(axis=1)) - joined


def fewest_votes(arena: Arena, standard_error: float) -> float:
    """Votes below which no shares of pairs reach the mean standard error of theta."""
    k = len(arena.information)
    shares = np.full(k, 1.0 / k)
    low, high = 0.0, 1000.0
    while _least(arena, shares, high)[1] > standard_error:
        low, high = high, 2.0 * high
    while high - low > 1e-3 * high:
        middle = 0.5 * (low + high)
        shares, least = _least(arena, shares, middle)
        low, high = (middle, high) if least > standard_error else (low, middle)
    return low


def _least(arena: Arena, shares: Any, n: float) -> tuple[Any, float]:
    """Shares for n votes and a lower bound of the mean standard error that any shares give."""
    bound = 0.0
    shares = 0.9 * shares + 0.1 / len(shares)  # none may have died out before
    for _ in range(_STEPS):
        error, slope = _slope(arena, shares, n)
        gap = float(slope.max() - shares @ slope)
        bound = max(bound, error - gap)
        if gap < _GAP * error:
            break
        shares = shares * slope
        shares /= shares.sum()
    return shares, bound


def _slope(arena: Arena, shares: Any, n: float) -> tuple[float, Any]:
    """The mean standard error, and (k,) how fast it falls with each pair's share."""
    covariance = arena.covariance(n * shares)
    errors = np.sqrt(np.diag(covariance))
    scatter = (covariance / errors[:, None]).T @ covariance
    own = np.diag(scatter)
    pairs = np.triu_indices(arena.m, 1)
    reduction = (own[:, None] + own[None, :] - 2.0 * scatter)[pairs]
    return float(errors.mean()), 0.5 * n * arena.information * reduction / arena.m
