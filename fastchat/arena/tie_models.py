"""Bradley-Terry ratings in which a tie is an outcome of its own, with a parameter of its own.

Davidson: wins of the two and a tie are as likely as e^(s/2) : e^(-s/2) : nu, s = theta_row -
theta_column. Rao-Kupper: the row wins with the chance 1 / (1 + kappa e^(-s)), the column likewise,
and what is left is a tie. Both likelihoods are concave in theta and in the tie parameter's
logarithm, so that Newton's method with halved steps finds the one maximum. Intervals are the
sandwich's, as of `rating`.

Source: Davidson 1970, "On extending the Bradley-Terry model to accommodate ties in paired
comparison experiments"; Rao and Kupper 1967, "Ties in paired-comparison experiments".
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from scipy.linalg import cho_solve

from fastchat.arena.connection import connection_with_ties
from fastchat.arena.counts import Counts, among_met
from fastchat.arena.rating import (
    RIDGE,
    Z95,
    Ratings,
    TieParameter,
    anchored,
    factored,
    inverse,
    ratings_of_theta,
    sandwich,
    solve,
)
from fastchat.arena.votes import Floats
from fastchat.errors import ModelError

TieModel = Literal["davidson", "rao-kupper"]

_MAX_STEPS = 100
_LAST_STEP = 1e-7
_LONGEST_STEP = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slopes:
    """(m, m) each: how the log-chance of an outcome grows with s and with the tie parameter t."""

    win_s: Floats
    win_t: Floats
    """Of a win of the row."""
    tie_s: Floats
    tie_t: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bends:
    """Minus the second derivatives of the log-likelihood: (m, m) in s s, (m, m) in s t, in t t."""

    ss: Floats
    st: Floats
    tt: float


class _Model(Protocol):
    """A likelihood of s, (m, m) differences of theta, and t, the tie parameter's logarithm."""

    def start(self, tie_share: float) -> float:
        """The t of equal models that tie so often."""
        ...

    def log_likelihood(self, counts: Counts, s: Floats, t: float) -> float:
        """Minus infinity where t is out of range."""
        ...

    def slopes(self, s: Floats, t: float) -> _Slopes: ...

    def bends(self, counts: Counts, s: Floats, t: float) -> _Bends: ...


class _Davidson:
    """t is the logarithm of nu."""

    def start(self, tie_share: float) -> float:
        return float(np.log(2.0 * tie_share / (1.0 - tie_share)))

    def log_likelihood(self, counts: Counts, s: Floats, t: float) -> float:
        norm = self._log_norm(s, t)
        won = (counts.wins * (0.5 * s - norm)).sum()
        return float(won + 0.5 * (counts.ties * (t - norm)).sum())

    def slopes(self, s: Floats, t: float) -> _Slopes:
        lead, tie = self._expected(s, t)
        return _Slopes(win_s=0.5 - lead, win_t=-tie, tie_s=-lead, tie_t=1.0 - tie)

    def bends(self, counts: Counts, s: Floats, t: float) -> _Bends:
        lead, tie = self._expected(s, t)
        n = counts.battles
        return _Bends(
            ss=n * (0.25 * (1.0 - tie) - lead**2),
            st=-n * lead * tie,
            tt=0.5 * float((n * tie * (1.0 - tie)).sum()),
        )

    def _expected(self, s: Floats, t: float) -> tuple[Floats, Floats]:
        """(m, m) half of the row's lead in chances to win; (m, m) the chance of a tie."""
        norm = self._log_norm(s, t)
        won = np.exp(0.5 * s - norm)
        return 0.5 * (won - won.T), np.exp(t - norm)

    @staticmethod
    def _log_norm(s: Floats, t: float) -> Floats:
        return np.logaddexp(np.logaddexp(0.5 * s, -0.5 * s), t)


class _RaoKupper:
    """t is the logarithm of kappa, above 0.

    A tie is what is left: (e^(2 t) - 1) times the product of the two chances to win.
    """

    def start(self, tie_share: float) -> float:
        return float(np.log((1.0 + tie_share) / (1.0 - tie_share)))

    def log_likelihood(self, counts: Counts, s: Floats, t: float) -> float:
        if t <= 0:
            return -np.inf
        at_least_tied = counts.wins + counts.ties
        likelihood = -(at_least_tied * np.logaddexp(0.0, t - s)).sum()
        return float(likelihood + 0.5 * counts.ties.sum() * (2.0 * t + np.log(-np.expm1(-2.0 * t))))

    def slopes(self, s: Floats, t: float) -> _Slopes:
        missed = _logistic(t - s)
        return _Slopes(
            win_s=missed,
            win_t=-missed,
            tie_s=missed - missed.T,
            tie_t=-2.0 / np.expm1(-2.0 * t) - missed - missed.T,
        )

    def bends(self, counts: Counts, s: Floats, t: float) -> _Bends:
        missed = _logistic(t - s)
        bend = (counts.wins + counts.ties) * missed * (1.0 - missed)
        of_ties = 0.5 * float(counts.ties.sum()) / np.sinh(t) ** 2
        return _Bends(ss=bend + bend.T, st=bend.T - bend, tt=float(bend.sum()) + of_ties)


def _logistic(x: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -x))


_MODELS: dict[TieModel, _Model] = {"davidson": _Davidson(), "rao-kupper": _RaoKupper()}
_NAMES: dict[TieModel, tuple[str, float]] = {"davidson": ("nu", 0.0), "rao-kupper": ("kappa", 1.0)}
"""The tie parameter's name in its source, and its value where nobody ties."""


def fit_with_ties(
    counts: Counts, model: TieModel, *, anchor: tuple[str, float] | None = None
) -> Ratings:
    """Maximum-likelihood ratings and the tie parameter, with sandwich intervals.

    Without any tie these are the ratings of the decided votes. Where votes bound not all of it,
    `RIDGE` is put on theta and on the tie parameter's logarithm, and the intervals are the wider
    of the sandwich's and the prior's.

    Raises:
        UsageError: the anchor has no vote.
    """
    counts = among_met(counts)
    found = connection_with_ties(counts)
    ridge = None if found.is_finite else RIDGE
    if counts.ties.any():
        x = solve_with_ties(counts, model, ridge=ridge or 0.0)
        variance = _sandwich(counts, model, x, ridge=ridge or 0.0)
        tie = _tie_parameter(model, float(x[-1]), float(variance[-1]))
        ratings = ratings_of_theta(counts, x[:-1], variance[:-1])
    else:
        ratings = _of_decided(counts, ridge=ridge or 0.0)
        name, value = _NAMES[model]
        tie = TieParameter(name=name, value=value)
    ratings = replace(ratings, connection=found, ridge=ridge, tie=tie if counts.models else None)
    return ratings if anchor is None else anchored(ratings, anchor[0], anchor[1])


def _of_decided(counts: Counts, *, ridge: float) -> Ratings:
    """Ratings of votes among which there is no tie."""
    theta = solve(counts, ridge=ridge)
    return ratings_of_theta(counts, theta, sandwich(counts, theta, ridge=ridge))


def parameters_of(ratings: Ratings) -> Floats | None:
    """(m + 1,) where a fit of nearly the same votes may start; None where nobody tied."""
    if ratings.tie is None or ratings.tie.lower is None:
        return None
    return np.append(ratings.theta, np.log(ratings.tie.value))


def resolved(counts: Counts, model: TieModel, *, start: Floats | None) -> Floats:
    """(m,) theta of votes drawn again, with a ridge where they bound not all of it.

    start: as of `parameters_of` for all votes, whose models these are.
    """
    ridge = 0.0 if connection_with_ties(counts).is_finite else RIDGE
    if not counts.ties.any():
        return solve(counts, ridge=ridge)
    return solve_with_ties(counts, model, ridge=ridge, start=start)[:-1]


def _tie_parameter(model: TieModel, t: float, variance: float) -> TieParameter:
    """The parameter with its interval, both from its logarithm's; kappa is at least 1."""
    name, least = _NAMES[model]
    half = Z95 * float(np.sqrt(variance))
    value, lower, upper = (float(np.exp(min(x, 700.0))) for x in (t, t - half, t + half))
    return TieParameter(name=name, value=value, lower=max(lower, least), upper=upper)


def solve_with_ties(
    counts: Counts, model: TieModel, *, ridge: float = 0.0, start: Floats | None = None
) -> Floats:
    """(m + 1,) theta of mean 0, then the tie parameter's logarithm, at the maximum.

    Newton's method; a step that would lower the penalised likelihood is halved.

    Raises:
        ModelError: it did not converge, as happens for data whose ratings are not finite.
    """
    kind = _MODELS[model]
    x = _start(counts, kind, ridge) if start is None else start
    value = _value(counts, kind, x, ridge)
    for _ in range(_MAX_STEPS):
        gradient = _gradient(counts, kind, x) - ridge * x
        step = cho_solve(factored(_information(counts, kind, x, ridge)), gradient)
        step[:-1] -= step[:-1].mean()
        longest = float(np.abs(step).max())
        if longest <= _LAST_STEP:
            return x + step
        x, value = _climb(counts, kind, x, step * min(1.0, _LONGEST_STEP / longest), value, ridge)
    raise ModelError(
        f"the ratings of {len(x) - 1} models did not converge; check that the battles connect them."
    )


def _start(counts: Counts, kind: _Model, ridge: float) -> Floats:
    """Theta of ties as half wins, and the tie parameter that the share of ties suggests."""
    share = 0.5 * float(counts.ties.sum()) / counts.total
    return np.append(solve(counts, ridge=ridge), kind.start(min(share, 0.99)))


def _climb(
    counts: Counts, kind: _Model, x: Floats, step: Floats, value: float, ridge: float
) -> tuple[Floats, float]:
    """Where the step leads, halved until the penalised likelihood does not fall, and its value."""
    # Of rounding, where the end is near: the sum's terms are far larger than the sum.
    slack = 1e-12 * abs(value) + 1e-14 * counts.total * (1.0 + abs(float(x[-1])))
    for _ in range(40):
        better = _value(counts, kind, x + step, ridge)
        if better >= value - slack:
            return x + step, better
        step = step / 2
    return x + step, value


def _value(counts: Counts, kind: _Model, x: Floats, ridge: float) -> float:
    likelihood = kind.log_likelihood(counts, _differences(x), float(x[-1]))
    return likelihood - 0.5 * ridge * float(x @ x)


def _differences(x: Floats) -> Floats:
    return x[:-1, None] - x[None, :-1]


def _gradient(counts: Counts, kind: _Model, x: Floats) -> Floats:
    """(m + 1,) of the log-likelihood."""
    slopes = kind.slopes(_differences(x), float(x[-1]))
    won = counts.wins * slopes.win_s
    by_pair = won - won.T + counts.ties * slopes.tie_s
    of_t = (counts.wins * slopes.win_t).sum() + 0.5 * (counts.ties * slopes.tie_t).sum()
    return np.append(by_pair.sum(axis=1), of_t)


def _information(counts: Counts, kind: _Model, x: Floats, ridge: float) -> Floats:
    """(m + 1, m + 1) minus the second derivative, made invertible as in `rating.information`."""
    bends = kind.bends(counts, _differences(x), float(x[-1]))
    matrix = _bordered(bends.ss, bends.st, bends.tt)
    matrix[:-1, :-1] += bends.ss.sum() / len(bends.ss) ** 2
    matrix.flat[:: len(matrix) + 1] += ridge
    return matrix


def _bordered(ss: Floats, st: Floats, tt: float) -> Floats:
    """(m + 1, m + 1) sums over pairs, from s and t to theta and t.

    ss: (m, m) symmetric. st: (m, m), its sign turning with the order of the two.
    """
    border = st.sum(axis=1)
    laplacian = np.diag(ss.sum(axis=1)) - ss
    return np.block([[laplacian, border[:, None]], [border[None, :], np.full((1, 1), tt)]])


def _sandwich(counts: Counts, model: TieModel, x: Floats, *, ridge: float) -> Floats:
    """(m + 1,) variances of theta about its mean and of t; with a ridge no less than the prior's.

    Where a model's few votes fit the ratings exactly, and so have no scatter, the information's.
    """
    kind = _MODELS[model]
    inverted = inverse(_information(counts, kind, x, ridge))
    scatter = _gradient_scatter(counts, kind.slopes(_differences(x), float(x[-1])))
    variances = np.einsum("ij,ij->i", inverted @ scatter, inverted)
    prior = np.diag(inverted).copy()
    block = inverted[:-1, :-1]
    prior[:-1] += block.mean() - 2.0 * block.mean(axis=1)
    if ridge:
        return np.maximum(variances, prior)
    return np.where(variances > 1e-9 * prior, variances, prior)


def _gradient_scatter(counts: Counts, slopes: _Slopes) -> Floats:
    """(m + 1, m + 1) the sum over votes of the gradient's outer product with itself."""
    wins, ties = counts.wins_squared, counts.ties_squared
    ss = wins * slopes.win_s**2
    st = wins * slopes.win_s * slopes.win_t
    tt = (wins * slopes.win_t**2).sum() + 0.5 * (ties * slopes.tie_t**2).sum()
    return _bordered(
        ss + ss.T + ties * slopes.tie_s**2,
        st - st.T + ties * slopes.tie_s * slopes.tie_t,
        float(tt),
    )
