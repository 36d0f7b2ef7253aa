"""Means with 95 % intervals that know which values belong together. Arrays only.

Values about one question rise and fall together, so the question is the unit that was drawn; an
interval that took every value for one of its own would be too narrow.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
ROUNDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and where the true one lies in 95 of 100 such studies."""

    value: float
    lower: float
    upper: float
    n: int
    """Values."""
    n_clusters: int
    """Questions they are about."""

    @property
    def interval(self) -> str:
        return f"{self.lower:.2f} to {self.upper:.2f}" if self.n_clusters > 1 else "-"


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """The mean of `values` with the cluster-robust interval of Student's t.

    The variance is G / (G - 1) times the sum over clusters of the squared sum of residuals,
    divided by n squared; with one value a cluster that is the usual one. No values give NaN, one
    cluster an unbounded interval. Source: Liang and Zeger 1986, eq. 9, for an intercept alone.
    """
    if not len(values):
        nan = float("nan")
        return Estimate(value=nan, lower=nan, upper=nan, n=0, n_clusters=0)
    x = np.asarray(values, float)
    code, n_clusters = codes(clusters)
    mean = float(x.mean())
    sums = np.bincount(code, x - mean, n_clusters)
    return around(mean, standard_error(sums.astype(float), len(x)), n=len(x), n_clusters=n_clusters)


def standard_error(sums: Floats, n: float) -> float:
    """Of a mean over `n`, from the sums of residuals by cluster."""
    g = len(sums)
    return float(np.sqrt(g / (g - 1) * (sums**2).sum()) / n) if g > 1 else float("inf")


def around(value: float, error: float, *, n: int, n_clusters: int) -> Estimate:
    """The estimate with Student's interval on as many degrees of freedom as clusters allow."""
    from scipy.stats import t

    half = float(t.ppf((1 + LEVEL) / 2, max(1, n_clusters - 1))) * error
    return Estimate(value=value, lower=value - half, upper=value + half, n=n, n_clusters=n_clusters)


def bootstrapped_ratio(
    over: Sequence[float],
    under: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Estimate:
    """sum(over) / sum(under) with the percentile interval of clusters drawn anew.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13.
    """
    code, g = codes(clusters)
    top = np.bincount(code, np.asarray(over, float), g)
    bottom = np.bincount(code, np.asarray(under, float), g)
    if not bottom.sum():
        nan = float("nan")
        return Estimate(value=nan, lower=nan, upper=nan, n=0, n_clusters=g)
    drawn = draws(g, rounds, seed)
    sums = drawn @ bottom
    ratios = (drawn @ top)[sums > 0] / sums[sums > 0]
    lower, upper = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(
        value=float(top.sum() / bottom.sum()),
        lower=float(lower),
        upper=float(upper),
        n=round(float(bottom.sum())),
        n_clusters=g,
    )


def draws(n_clusters: int, rounds: int, seed: int) -> Floats:
    """(rounds, n_clusters): how often each cluster was drawn, out of as many as there are."""
    rng = np.random.default_rng(seed)
    equal = np.full(n_clusters, 1.0 / n_clusters)
    return rng.multinomial(n_clusters, equal, size=rounds).astype(float)


def codes(labels: Sequence[Hashable]) -> tuple[NDArray[np.intp], int]:
    """Labels as numbers from 0 in the order of their appearance, and how many there are."""
    numbers: dict[Hashable, int] = {}
    code = [numbers.setdefault(label, len(numbers)) for label in labels]
    return np.array(code, np.intp), len(numbers)
