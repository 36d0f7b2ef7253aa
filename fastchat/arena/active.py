"""Which pair to let battle next, so that the intervals of the ratings shrink fastest.

One more battle of i and j adds h (e_i - e_j)(e_i - e_j)^T to the information, with h = p (1 - p).
By the Sherman-Morrison formula the covariance A loses h c c^T / (1 + h v), with c = A (e_i - e_j)
and v = c_i - c_j, so that what every possible pair gains is known before any is played. The gain is
what the mean width of the intervals loses by it, which is what boards show. Taken one after the
other, the best pairs need hardly more votes than the best possible shares of pairs
(`benchmarks/pairing.py`). Source: optimal design, Pukelsheim 1993, chapter 9.
"""

import numpy as np
from numpy.typing import NDArray

from fastchat.arena.counts import Counts, counts_of
from fastchat.arena.rating import RIDGE, information, inverse, solve, win_probabilities
from fastchat.arena.votes import Floats

Bools = NDArray[np.bool_]
Places = NDArray[np.intp]


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
    if len(counts.models) < 2:
        return []
    chooser = PairChooser.after(counts)
    return [chooser.next(rng=rng) for _ in range(n)]


class PairChooser:
    """Chooses pairs one after the other, each as if those before it had been played."""

    def __init__(self, p: Floats, covariance: Floats) -> None:
        """
        Args:
            p: (m, m) the chance of the row against the column.
            covariance: (m, m) of theta about its mean.
        """
        self._p, self._covariance = p, covariance
        self._upper = np.triu(np.ones(p.shape, bool), 1)

    @classmethod
    def after(cls, counts: Counts) -> "PairChooser":
        """One that begins with these votes, of two models or more."""
        theta, covariance = _state(counts)
        return cls(win_probabilities(theta), covariance)

    def next(
        self, *, allowed: Bools | None = None, rng: np.random.Generator | None = None
    ) -> tuple[int, int]:
        """The pair that narrows the intervals most.

        allowed: (m, m) symmetric, which pairs may meet; one at least. None allows all.
        """
        among = self._upper if allowed is None else self._upper & allowed
        first, second, gains = _best_pairs(self._p, self._covariance, among)
        best = np.flatnonzero(gains >= gains.max() * (1.0 - 1e-9))
        pick = int(best[0] if rng is None else rng.choice(best))
        i, j = int(first[pick]), int(second[pick])
        h = float(self._p[i, j] * self._p[j, i])
        self._covariance = _after(self._covariance, i, j, h)
        return (j, i) if rng is not None and rng.random() < 0.5 else (i, j)


def pair_chances(counts: Counts, *, sharpness: float = 8.0) -> Floats:
    """(m, m) symmetric chances to be drawn, summing to 1 over pairs row < column.

    They grow with a power of the gain: every pair keeps some chance, so that nobody can foretell
    who meets whom, and the useful ones are drawn most. With the eighth power this needs some 3 %
    more votes than the best pairs one after the other.
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
    """(m, m) what a battle of each pair takes off the sum of the standard errors."""
    gains = np.zeros_like(p)
    for i in range(len(p) - 1):
        rivals = np.arange(i + 1, len(p))
        gains[i, i + 1 :] = _exact_gains(p, covariance, np.full_like(rivals, i), rivals)
    return gains + gains.T


def _exact_gains(p: Floats, covariance: Floats, first: Places, second: Places) -> Floats:
    """(k,) what a battle of each of k pairs takes off the sum of the standard errors."""
    columns = covariance[first] - covariance[second]
    of_difference = columns[np.arange(len(first)), first] - columns[np.arange(len(first)), second]
    h = p[first, second] * p[second, first]
    variance = np.maximum(np.diag(covariance), 0.0)
    after = variance - (h / (1.0 + h * of_difference))[:, None] * columns**2
    return np.sqrt(variance).sum() - np.sqrt(np.maximum(after, 0.0)).sum(axis=1)


def _best_pairs(p: Floats, covariance: Floats, allowed: Bools) -> tuple[Places, Places, Floats]:
    """Pairs that may be the best of those allowed, row below column, and what each gains.

    To first order a gain is one product of matrices for all pairs. The root bends, so that the
    whole gain is more, by 2 / (1 + sqrt(1 - r)) at most where the battle takes the part r off a
    variance, which is no more than h v / (1 + h v). What this leaves open is computed whole.
    """
    spread = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    scatter = (covariance / spread[:, None]).T @ covariance
    own, variance = np.diag(scatter), np.diag(covariance)
    reduction = own[:, None] + own[None, :] - 2.0 * scatter
    of_difference = variance[:, None] + variance[None, :] - 2.0 * covariance
    h = p * p.T
    kept = 1.0 / (1.0 + h * of_difference)
    least = np.where(allowed, 0.5 * h * reduction * kept, -1.0)
    most = least * 2.0 / (1.0 + np.sqrt(kept))
    first, second = np.nonzero(allowed & (most >= least.max() * (1.0 - 1e-9)))
    return first, second, _exact_gains(p, covariance, first, second)


def _after(covariance: Floats, i: int, j: int, h: float) -> Floats:
    """The covariance after one more battle of i and j."""
    column = covariance[:, i] - covariance[:, j]
    of_difference = float(column[i] - column[j])
    return covariance - h / (1.0 + h * of_difference) * np.outer(column, column)


def without_battles(models: tuple[str, ...]) -> Counts:
    """The counts of models that nobody has compared yet."""
    nothing: NDArray[np.float64] = np.zeros((len(models), len(models)))
    return counts_of(models, nothing, nothing.copy())
