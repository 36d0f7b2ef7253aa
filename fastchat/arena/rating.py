"""Bradley-Terry ratings with intervals, from counts of votes. Arrays only; numpy and scipy.

P(row beats column) = 1 / (1 + exp(theta_column - theta_row)). A tie is half a win for each;
`tie_models` has the models in which it is an outcome of its own. The fit is Newton's method on the
exact likelihood, without any penalty; the intervals are those of the sandwich estimator, from each
vote's own gradient, which stay right where ties make votes less scattered than a coin. Ratings are
400 / ln 10 theta, moved to a mean of 1000.

Source: Hunter 2004, "MM algorithms for generalized Bradley-Terry models", for the likelihood;
White 1982, "Maximum likelihood estimation of misspecified models", for the covariance.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, get_lapack_funcs

from fastchat.arena.connection import Connection, connection
from fastchat.arena.counts import Counts, among_met
from fastchat.arena.votes import Floats
from fastchat.errors import ModelError, UsageError

POINTS = 400.0 / np.log(10.0)
"""Rating points of one unit of theta: the published scale 400 and base 10."""
MEAN = 1000.0
Z95 = 1.959963984540054
"""The normal distribution's quantile of 0.975."""
RIDGE = 0.1
"""Penalty, half of it times the squared theta, used only where votes do not bound the ratings: a
prior with a standard deviation of 550 points, which any few votes outweigh."""

_MAX_STEPS = 100
_SCATTERED = 1e-9
"""Below this share of the information's variance the votes have no scatter to tell of."""
_LONGEST_STEP = 4.0
_LAST_STEP = 1e-7
"""A Newton step this small leaves an error of about its square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TieParameter:
    """How often equal models tie, as the fit of a tie model (`tie_models`) found it.

    Attributes:
        name: nu of Davidson's model, kappa of Rao and Kupper's.
        lower, upper: its 95 % interval; None where there are no ties to tell.
    """

    name: str
    value: float
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings:
    """Strengths of models with 95 % intervals.

    Attributes:
        models: (m,) names.
        theta: (m,) natural log-odds, mean 0.
        rating, lower, upper: (m,) rating points.
        variance: (m,) squared rating points.
        n_battles: (m,) votes (their weight) each model took part in.
        connection: what of the votes keeps ratings from being finite.
        ridge: the penalty that was needed, or None.
        anchor: the model whose rating was set, or None where the mean is 1000.
        tie: the tie parameter, or None where a tie is half a win.
    """

    models: tuple[str, ...]
    theta: Floats
    rating: Floats
    lower: Floats
    upper: Floats
    variance: Floats
    n_battles: Floats
    connection: Connection
    ridge: float | None = None
    anchor: str | None = None
    tie: TieParameter | None = None

    @property
    def rank(self) -> NDArray[np.int64]:
        """(m,) 1 + how many models are better beyond doubt: lower bound above the own upper."""
        return ranks(self.lower, self.upper)


def fit(
    counts: Counts,
    *,
    start: dict[str, float] | None = None,
    anchor: tuple[str, float] | None = None,
) -> Ratings:
    """Maximum-likelihood ratings of the models that met somebody, with sandwich intervals.

    start: theta by model, from which to begin; a fit of nearly the same votes saves steps.
    anchor: a model and its rating, to which all move; None moves the mean to 1000. Intervals
        are about the mean either way.

    Where votes do not bound a rating (`Connection`), `RIDGE` is used, and the intervals are the
    wider of the sandwich's and the prior's.

    Raises:
        UsageError: the anchor has no vote.
    """
    counts = among_met(counts)
    found = connection(counts)
    ridge = None if found.is_finite else RIDGE
    first = np.array([(start or {}).get(name, 0.0) for name in counts.models])
    theta = solve(counts, ridge=ridge or 0.0, start=first)
    ratings = ratings_of_theta(counts, theta, sandwich(counts, theta, ridge=ridge or 0.0))
    ratings = replace(ratings, connection=found, ridge=ridge)
    return ratings if anchor is None else anchored(ratings, anchor[0], anchor[1])


def ratings_of_theta(counts: Counts, theta: Floats, theta_variance: Floats) -> Ratings:
    """The record of (m,) strengths and their variances; the caller says how they connect."""
    rating = POINTS * theta + MEAN
    variance = theta_variance * POINTS**2
    half = Z95 * np.sqrt(variance)
    return Ratings(
        models=counts.models,
        theta=theta,
        rating=rating,
        lower=rating - half,
        upper=rating + half,
        variance=variance,
        n_battles=counts.battles.sum(axis=1),
        connection=Connection(components=(counts.models,)),
    )


def anchored(ratings: Ratings, model: str, at: float) -> Ratings:
    """The ratings moved so that `model` is rated `at`.

    Raises:
        UsageError: the model has no vote.
    """
    if model not in ratings.models:
        raise UsageError(
            f"the anchor {model!r} has no battle here; rated are: "
            f"{', '.join(ratings.models[:10]) or 'none'}."
        )
    by = at - ratings.rating[ratings.models.index(model)]
    return replace(
        ratings,
        rating=ratings.rating + by,
        lower=ratings.lower + by,
        upper=ratings.upper + by,
        anchor=model,
    )


def solve(counts: Counts, *, ridge: float = 0.0, start: Floats | None = None) -> Floats:
    """(m,) theta of mean 0 that maximises the likelihood, less ridge / 2 times its square.

    Newton's method; a step that would lower the likelihood is halved.

    Raises:
        ModelError: it did not converge, as happens for data whose ratings are not finite.
    """
    score, battles = counts.score, counts.battles
    won = score.sum(axis=1)
    if len(won) < 2:
        return np.zeros(len(won))
    theta = np.zeros(len(won)) if start is None else start - start.mean()
    value = -np.inf
    for _ in range(_MAX_STEPS):
        p = win_probabilities(theta)
        gradient = won - (battles * p).sum(axis=1) - ridge * theta
        step = cho_solve(factored(information(battles, p, ridge=ridge)), gradient)
        step -= step.mean()
        longest = float(np.abs(step).max())
        if longest <= _LAST_STEP:
            return theta + step
        if longest > 0.5:  # far from the optimum a full step may overshoot
            step *= min(1.0, _LONGEST_STEP / longest)
            theta, value = _climb(score, theta, step, value, ridge)
        else:
            theta = theta + step
    raise ModelError(
        f"the ratings of {len(theta)} models did not converge; check that the battles connect them."
    )


def _climb(
    score: Floats, theta: Floats, step: Floats, value: float, ridge: float
) -> tuple[Floats, float]:
    """Where the step leads, halved until the penalised likelihood does not fall, and its value."""
    if value == -np.inf:
        value = _log_likelihood(score, theta, ridge)
    for _ in range(30):
        better = _log_likelihood(score, theta + step, ridge)
        if better >= value:
            return theta + step, better
        step = step / 2
    return theta + step, value


def _log_likelihood(score: Floats, theta: Floats, ridge: float) -> float:
    difference = theta[:, None] - theta[None, :]
    likelihood = -(score * np.logaddexp(0.0, -difference)).sum()
    return float(likelihood - 0.5 * ridge * (theta**2).sum())


def win_probabilities(theta: Floats) -> Floats:
    """(m, m) the chance of the row against the column."""
    odds = np.exp(theta - theta.mean())
    return odds[:, None] / (odds[:, None] + odds[None, :])


def information(battles: Floats, p: Floats, *, ridge: float = 0.0) -> Floats:
    """(m, m) the negative second derivative of the log-likelihood in theta, made invertible.

    A shift of all thetas changes no chance; the constant added to every entry takes that
    direction, along which nothing is ever asked.
    """
    h = battles * p
    h *= p.T
    diagonal = h.sum(axis=1)
    h *= -1.0
    h.flat[:: len(h) + 1] += diagonal + ridge
    h += diagonal.mean() / len(h)
    return h


def factored(matrix: Floats) -> tuple[Floats, bool]:
    """Its Cholesky factor."""
    try:
        return cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        raise ModelError(
            "the battles do not determine the ratings; check that they connect the models."
        ) from None


def inverse(matrix: Floats) -> Floats:
    """The inverse of a positive definite matrix."""
    factor, _ = factored(matrix)
    (invert,) = get_lapack_funcs(("potri",), (factor,))
    lower, info = invert(factor, lower=1)
    if info:
        raise ModelError("the information of the battles has no inverse; some model met nobody.")
    result = np.tril(lower)
    result += np.tril(lower, -1).T
    return result


def sandwich(counts: Counts, theta: Floats, *, ridge: float = 0.0) -> Floats:
    """(m,) variances of theta about its mean: H^-1 M H^-1, with M from each vote's gradient.

    With a ridge the larger of this and the prior's variance, H^-1; H^-1 also where a model's few
    votes fit the ratings exactly, as a single tie does, and scatter tells nothing.
    """
    m = len(theta)
    if m < 2:
        return np.zeros(m)
    p = win_probabilities(theta)
    inverted = inverse(information(counts.battles, p, ridge=ridge))
    variances = np.einsum("ij,ij->i", inverted @ _gradient_scatter(counts, p), inverted)
    centred = np.diag(inverted) - 2.0 * inverted.mean(axis=1) + inverted.mean()
    if ridge:
        return np.maximum(variances, centred)
    return np.where(variances > _SCATTERED * centred, variances, centred)


def _gradient_scatter(counts: Counts, p: Floats) -> Floats:
    """(m, m) M: the sum over votes of the gradient's outer product with itself."""
    lost = 1.0 - p
    v = counts.wins_squared * lost**2
    v += v.T.copy()
    v += counts.ties_squared * (0.5 - p) ** 2
    diagonal = v.sum(axis=1)
    v *= -1.0
    v.flat[:: len(v) + 1] += diagonal
    return v


def ranks(lower: Floats, upper: Floats) -> NDArray[np.int64]:
    """(m,) 1 + the number of models whose lower bound is above this model's upper bound."""
    ascending = np.sort(lower)
    return 1 + len(lower) - np.searchsorted(ascending, upper, side="right")
