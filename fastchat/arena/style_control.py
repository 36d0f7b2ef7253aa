"""Ratings with style held apart: Bradley-Terry with features of the two answers beside it.

logit P(a beats b) = theta_a - theta_b + beta . x, with x the features of the pair. The fit is
Newton's over all votes, unpenalised; its covariance the sandwich's. Passes over the votes that
only need the gradient reuse the last curvature, which halves the work.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve

from fastchat.arena.counts import fold
from fastchat.arena.rating import (
    MEAN,
    POINTS,
    RIDGE,
    Z95,
    Ratings,
    anchored,
    factored,
    fit,
    inverse,
)
from fastchat.arena.votes import Codes, Floats, Votes
from fastchat.errors import DataError, ModelError, UsageError

STYLE_RIDGE = 1.0
"""Penalty on the coefficients (half of it times the squares), used only where votes do not bound
them, as when a feature foretells every vote."""

_CLOSE = 1e-6
_MAX_STEPS = 60
_LONGEST_STEP = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleRatings:
    """Ratings without the part that style explains.

    Attributes:
        ratings: as those of a plain fit.
        names: (k,) features that took part.
        coefficient, lower, upper: (k,) change of the natural log-odds a standard deviation of
            the feature makes, with its 95 % interval.
        dropped: features without any variation, which tell nothing.
        ridge: the penalty on the coefficients that was needed, or None.
    """

    ratings: Ratings
    names: tuple[str, ...]
    coefficient: Floats
    lower: Floats
    upper: Floats
    dropped: tuple[str, ...] = ()
    ridge: float | None = None


def relative_differences(side_a: Floats, side_b: Floats) -> Floats:
    """(n, k) features of the pair: (a - b) / (a + b + 1) of two counts each."""
    total = side_a + side_b
    total += 1.0
    return (side_a - side_b) / total


def standardised(
    features: Floats, names: Sequence[str]
) -> tuple[Floats, tuple[str, ...], tuple[str, ...]]:
    """(n, k) with mean 0 and deviation 1 over the votes; names kept, and those without variation.

    Raises:
        DataError: a value is not finite.
    """
    if not np.isfinite(features).all():
        raise DataError("a style feature is not a finite number; leave such battles out.")
    centre, spread = features.mean(axis=0), features.std(axis=0)
    varies = spread > 1e-12 * (1.0 + np.abs(centre))
    kept = tuple(n for n, v in zip(names, varies, strict=True) if v)
    dropped = tuple(n for n, v in zip(names, varies, strict=True) if not v)
    return (features[:, varies] - centre[varies]) / spread[varies], kept, dropped


def fit_style(
    votes: Votes,
    features: Floats,
    names: Sequence[str],
    *,
    anchor: tuple[str, float] | None = None,
    ridge: float = 0.0,
) -> StyleRatings:
    """Ratings beside the coefficients of the features, with sandwich intervals.

    features: (n, k), a row for each vote, as of `relative_differences`; they are standardised
        here.
    ridge: half of it times the coefficients' squares is added to the mean loss of a vote, as
        arena-rank's `reg` is; its default there is 1. With 0 a ridge is used only where votes do
        not bound the coefficients.

    Raises:
        DataError: a feature is not finite.
        UsageError: the anchor has no vote.
    """
    if len(features) != len(votes):
        raise DataError(f"{len(features)} rows of features belong to {len(votes)} votes.")
    plain = fit(fold(votes))
    if not len(plain.models):
        return _without_votes(plain)
    votes = _recoded(votes, plain.models)
    x, kept, dropped = standardised(features, names)
    problem = _Problem(votes, x)
    chosen = ridge * problem.total_weight
    needed: float | None = None
    try:
        parameters = problem.solve(plain.theta, plain.ridge or 0.0, chosen)
    except ModelError:
        needed = STYLE_RIDGE
        parameters = problem.solve(plain.theta, plain.ridge or 0.0, needed)
    penalty = chosen if needed is None else needed
    is_prior = needed is not None or plain.ridge is not None
    variance = problem.variances(parameters, plain.ridge or 0.0, penalty, is_prior=is_prior)
    found = _style_ratings(plain, parameters, variance, kept)
    found = replace(found, dropped=dropped, ridge=needed)
    if anchor is None:
        return found
    return replace(found, ratings=anchored(found.ratings, anchor[0], anchor[1]))


def bootstrap_style(
    votes: Votes,
    features: Floats,
    names: Sequence[str],
    *,
    rounds: int = 100,
    seed: int = 0,
    anchor: tuple[str, float] | None = None,
    ridge: float = 0.0,
) -> StyleRatings:
    """As `fit_style`, with the 2.5 % and 97.5 % quantiles of `rounds` resamples of the votes.

    A resample draws as many votes with replacement; it is fitted with the ridges of all votes, or,
    where it bounds less than they do, with `RIDGE` and `STYLE_RIDGE`.

    Raises:
        UsageError: fewer than two rounds.
    """
    if rounds < 2:
        raise UsageError(f"--num-bootstrap {rounds} gives no interval; take 2 or more.")
    found = fit_style(votes, features, names, anchor=anchor, ridge=ridge)
    if not len(found.ratings.models):
        return found
    x, _, _ = standardised(features, names)
    problem = _Problem(_recoded(votes, found.ratings.models), x)
    penalties = (found.ratings.ridge or 0.0, found.ridge or ridge * problem.total_weight)
    samples = problem.resampled(found.ratings.theta, penalties, rounds=rounds, seed=seed)
    return _with_quantiles(found, samples)


def _with_quantiles(found: StyleRatings, samples: Floats) -> StyleRatings:
    """The estimate with the quantiles of (rounds, m + k) parameters of resamples."""
    m = len(found.ratings.models)
    lower, upper = np.quantile(samples, [0.025, 0.975], axis=0)
    points = POINTS * samples[:, :m]
    shift = found.ratings.rating - POINTS * found.ratings.theta
    ratings = replace(
        found.ratings,
        lower=POINTS * lower[:m] + shift,
        upper=POINTS * upper[:m] + shift,
        variance=points.var(axis=0, ddof=1),
    )
    return replace(found, ratings=ratings, lower=lower[m:], upper=upper[m:])


def _without_votes(plain: Ratings) -> StyleRatings:
    nothing = np.zeros(0)
    return StyleRatings(ratings=plain, names=(), coefficient=nothing, lower=nothing, upper=nothing)


def _recoded(votes: Votes, models: tuple[str, ...]) -> Votes:
    """The votes with codes of the models that have any."""
    if models == votes.models:
        return votes
    place = {name: i for i, name in enumerate(models)}
    codes = np.array([place.get(name, -1) for name in votes.models], np.int32)
    return replace(votes, models=models, a=codes[votes.a], b=codes[votes.b])


def _style_ratings(
    plain: Ratings, parameters: Floats, variance: Floats, names: tuple[str, ...]
) -> StyleRatings:
    m = len(plain.models)
    theta, beta = parameters[:m], parameters[m:]
    rating = POINTS * theta + MEAN
    points = variance[:m] * POINTS**2
    half, reach = Z95 * np.sqrt(points), Z95 * np.sqrt(variance[m:])
    ratings = replace(
        plain,
        theta=theta,
        rating=rating,
        lower=rating - half,
        upper=rating + half,
        variance=points,
    )
    return StyleRatings(
        ratings=ratings, names=names, coefficient=beta, lower=beta - reach, upper=beta + reach
    )


class _Problem:
    """The likelihood of votes with features; m models, k features, n votes."""

    def __init__(self, votes: Votes, x: Floats) -> None:
        self._m = len(votes.models)
        self._pair = _pair_codes(votes.a, votes.b, self._m)
        self._score = votes.score
        self._weight = votes.weight
        self._x = np.ascontiguousarray(x.T)
        """(k, n): a feature is one run of memory."""

    def resampled(
        self, theta: Floats, penalties: tuple[float, float], *, rounds: int, seed: int
    ) -> Floats:
        """(rounds, m + k) parameters of as many votes drawn again, from `theta`."""
        rng = np.random.default_rng(seed)
        weight, n = self._weight, len(self._pair)
        found: list[Floats] = []
        for _ in range(rounds):
            drawn = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
            self._weight = drawn if weight is None else drawn * weight
            try:
                found.append(self.solve(theta, *penalties))
            except ModelError:
                found.append(self.solve(theta, RIDGE, STYLE_RIDGE))
        self._weight = weight
        return np.stack(found)

    @property
    def total_weight(self) -> float:
        """All votes together."""
        return float(len(self._pair) if self._weight is None else self._weight.sum())

    def solve(self, theta: Floats, ridge: float, style_ridge: float) -> Floats:
        """(m + k,) theta of mean 0, then beta, at the maximum of the likelihood.

        Raises:
            ModelError: it did not converge.
        """
        penalty = self._penalty(ridge, style_ridge)
        parameters = np.concatenate([theta, np.zeros(len(self._x))])
        factor, before, stale = None, np.inf, True
        for step_number in range(_MAX_STEPS):
            p = self._chances(parameters)
            if factor is None or stale or step_number < 2:
                factor = factored(self._curvature(p * (1.0 - p), self._weight, penalty))
            step = self._solve(factor, self._gradient(p) - penalty * parameters)
            longest = float(np.abs(step).max())
            parameters = parameters + step * min(1.0, _LONGEST_STEP / max(longest, 1e-300))
            if longest <= _CLOSE:
                return parameters
            if not np.isfinite(longest):
                break
            before, stale = longest, longest > 0.1 * before
        raise ModelError("the votes do not bound the coefficients of style.")

    def variances(
        self, parameters: Floats, ridge: float, style_ridge: float, *, is_prior: bool
    ) -> Floats:
        """(m + k,) the sandwich's variances.

        is_prior: the ridges stand for what votes do not tell; the larger of the two is given.
        """
        penalty = self._penalty(ridge, style_ridge)
        p = self._chances(parameters)
        inverted = inverse(self._curvature(p * (1.0 - p), self._weight, penalty))
        squared = None if self._weight is None else self._weight**2
        scatter = self._curvature((self._score - p) ** 2, squared, np.zeros(len(penalty)), lift=0)
        found = np.einsum("ij,ij->i", inverted @ scatter, inverted)
        if is_prior:
            found = np.maximum(found, np.diag(inverted))
        return np.maximum(found, 0.0)

    def _penalty(self, ridge: float, style_ridge: float) -> Floats:
        return np.concatenate([np.full(self._m, ridge), np.full(len(self._x), style_ridge)])

    def _chances(self, parameters: Floats) -> Floats:
        """(n,) the chance of the first model of each vote."""
        theta, beta = parameters[: self._m], parameters[self._m :]
        difference = theta[:, None] - theta[None, :]
        logit = difference.ravel()[self._pair]
        if len(beta):
            logit += beta @ self._x
        np.negative(logit, out=logit)
        with np.errstate(over="ignore"):  # a chance of 0 is what an overflow means
            np.exp(logit, out=logit)
        logit += 1.0
        return np.divide(1.0, logit, out=logit)

    def _gradient(self, p: Floats) -> Floats:
        """(m + k,) of the log-likelihood."""
        residual = self._score - p
        if self._weight is not None:
            residual *= self._weight
        return np.concatenate([self._by_model(residual), self._x @ residual])

    def _by_model(self, values: Floats) -> Floats:
        """(m,) the sum of a value over the votes of a model, negative where it came second."""
        pairs = self._by_pair(values)
        return pairs.sum(axis=1) - pairs.sum(axis=0)

    def _by_pair(self, values: Floats) -> Floats:
        """(m, m) the sum of a value over the votes of each ordered pair."""
        sums = np.bincount(self._pair, values, self._m**2).astype(np.float64, copy=False)
        return sums.reshape(self._m, self._m)

    def _curvature(
        self, per_vote: Floats, weight: Floats | None, penalty: Floats, *, lift: float = 1.0
    ) -> Floats:
        """(m + k, m + k) sum over votes of a value times the outer product of (e_a - e_b, x).

        lift: how much of the mean diagonal is spread over the thetas' part, which makes it
            invertible without changing any answer (`rating.information`).
        """
        m, k = self._m, len(self._x)
        value = per_vote if weight is None else per_vote * weight
        result = np.zeros((m + k, m + k))
        pairs = self._by_pair(value)
        pairs += pairs.T.copy()
        diagonal = pairs.sum(axis=1)
        result[:m, :m] = np.diag(diagonal) - pairs + lift * diagonal.mean() / m
        for i in range(k):
            scaled = value * self._x[i]
            result[m + i, :m] = result[:m, m + i] = self._by_model(scaled)
            result[m + i, m:] = self._x @ scaled
        result.flat[:: m + k + 1] += penalty
        return result

    def _solve(self, factor: tuple[Floats, bool], gradient: Floats) -> Floats:
        step = cho_solve(factor, gradient, check_finite=False)
        step[: self._m] -= step[: self._m].mean()
        return step


def _pair_codes(a: Codes, b: Codes, m: int) -> NDArray[np.intp]:
    code = a.astype(np.intp)
    code *= m
    code += b
    return code
