from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from voting import names, random_votes, real_votes, votes_of

from fastchat.arena.bootstrap import bootstrap_ratings
from fastchat.arena.counts import counts_of, fold, reweighted
from fastchat.arena.rating import POINTS, RIDGE, fit
from fastchat.arena.tie_models import TieModel, fit_with_ties
from fastchat.arena.votes import TIE, WIN_A, WIN_B, Votes
from fastchat.errors import UsageError

MODELS: tuple[TieModel, ...] = ("davidson", "rao-kupper")
Chances = Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]


def davidson(s: np.ndarray, nu: float) -> tuple[np.ndarray, np.ndarray]:
    """Chances of a win of the first and of a tie, as the paper has them."""
    a, b = np.exp(s), 1.0
    return a / (a + b + nu * np.sqrt(a * b)), nu * np.sqrt(a * b) / (a + b + nu * np.sqrt(a * b))


def rao_kupper(s: np.ndarray, kappa: float) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.exp(s), 1.0
    return a / (a + kappa * b), (kappa**2 - 1) * a * b / ((a + kappa * b) * (kappa * a + b))


CHANCES: dict[TieModel, Chances] = {"davidson": davidson, "rao-kupper": rao_kupper}


def drawn(model: TieModel, n: int, m: int, parameter: float, seed: int) -> tuple[Votes, np.ndarray]:
    """Votes whose outcomes are drawn from the model itself, and theta, mean 0."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(0.0, 0.8, m)
    theta -= theta.mean()
    a = rng.integers(0, m, n).astype(np.int32)
    b = ((a + rng.integers(1, m, n)) % m).astype(np.int32)
    win, tie = CHANCES[model](theta[a] - theta[b], parameter)
    u = rng.random(n)
    outcome = np.where(u < win, WIN_A, np.where(u < win + tie, TIE, WIN_B)).astype(np.int8)
    return Votes(models=names(m), a=a, b=b, outcome=outcome), theta


def log_chances(votes: Votes, model: TieModel, x: np.ndarray) -> np.ndarray:
    """(n,) of each vote's outcome, vote by vote."""
    s = x[votes.a] - x[votes.b]
    win, tie = CHANCES[model](s, float(np.exp(x[-1])))
    outcome = np.where(votes.outcome >= TIE, TIE, votes.outcome)
    return np.log(np.select([outcome == WIN_A, outcome == WIN_B], [win, 1 - win - tie], tie))


def by_scipy(votes: Votes, model: TieModel) -> np.ndarray:
    """(m + 1,) theta of mean 0 and the parameter's logarithm, by a general optimiser."""

    def loss(x: np.ndarray) -> float:
        return -float(log_chances(votes, model, x).sum()) / len(votes) + float(x[:-1].sum()) ** 2

    # Central differences by hand: the optimiser's own are too coarse for six digits.
    def gradient(x: np.ndarray) -> np.ndarray:
        steps = np.eye(len(x)) * 1e-5
        return np.array([(loss(x + h) - loss(x - h)) / 2e-5 for h in steps])

    start = np.append(np.zeros(len(votes.models)), 0.3)
    found = minimize(loss, start, jac=gradient, method="BFGS", options={"gtol": 1e-10})
    return found.x


@pytest.mark.parametrize("model", MODELS)
def test_ratings_are_where_a_general_optimiser_finds_the_likelihood_largest(
    model: TieModel,
) -> None:
    votes, _ = drawn(model, 1500, 5, 1.6, seed=3)
    found, wanted = fit_with_ties(fold(votes), model), by_scipy(votes, model)
    np.testing.assert_allclose(found.theta, wanted[:-1] - wanted[:-1].mean(), atol=1e-6)
    assert found.tie is not None
    assert np.log(found.tie.value) == pytest.approx(wanted[-1], abs=1e-6)
    assert found.tie.name == {"davidson": "nu", "rao-kupper": "kappa"}[model]


@pytest.mark.parametrize("model", MODELS)
def test_intervals_are_those_of_the_sandwich_written_out(model: TieModel) -> None:
    votes, _ = drawn(model, 800, 4, 1.5, seed=1)
    found = fit_with_ties(fold(votes), model)
    assert found.tie is not None and found.tie.upper is not None
    x = np.append(found.theta, np.log(found.tie.value))
    step = np.eye(len(x)) * 1e-4

    def slopes(at: np.ndarray) -> np.ndarray:
        """(n, m + 1) of each vote's log-chance."""
        pairs = [
            (log_chances(votes, model, at + h), log_chances(votes, model, at - h)) for h in step
        ]
        return np.stack([(up - down) / 2e-4 for up, down in pairs], axis=1)

    each = slopes(x)
    assert np.abs(each.sum(axis=0)).max() < 1e-3
    bend = np.stack([(slopes(x + h) - slopes(x - h)).sum(axis=0) / 2e-4 for h in step])
    inverse = np.linalg.pinv(-bend, rcond=1e-6)
    variance = np.diag(inverse @ (each.T @ each) @ inverse)
    np.testing.assert_allclose(found.variance, variance[:-1] * POINTS**2, rtol=1e-3)
    width = np.log(found.tie.upper) - np.log(found.tie.value)
    assert width == pytest.approx(1.96 * np.sqrt(variance[-1]), rel=1e-3)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("which", ["llmfao", "mt_bench_human"])
def test_real_votes_give_nearly_the_order_of_ties_as_half_wins(
    shared: Path, model: TieModel, which: str
) -> None:
    counts = fold(real_votes(shared, which))
    found, half = fit_with_ties(counts, model), fit(counts)
    assert found.ridge is None and found.tie is not None and found.tie.lower is not None
    assert np.corrcoef(found.theta, half.theta)[0, 1] > 0.99
    assert found.rating.mean() == pytest.approx(1000.0)
    assert found.tie.lower < found.tie.value


@pytest.mark.parametrize("model", MODELS)
def test_weights_and_anchors_are_as_of_a_plain_fit(model: TieModel) -> None:
    votes, _ = drawn(model, 600, 5, 1.5, seed=2)
    times = np.random.default_rng(1).integers(1, 4, len(votes))
    repeated = fold(votes.take(np.repeat(np.arange(len(votes)), times)))
    weighted = fold(
        Votes(
            models=votes.models,
            a=votes.a,
            b=votes.b,
            outcome=votes.outcome,
            weight=times.astype(float),
        )
    )
    once, heavy = fit_with_ties(repeated, model), fit_with_ties(weighted, model)
    np.testing.assert_allclose(heavy.rating, once.rating, atol=1e-6)
    assert (heavy.variance > once.variance).all()
    held = fit_with_ties(repeated, model, anchor=("m02", 1114.0))
    assert held.rating[2] == pytest.approx(1114.0)
    np.testing.assert_allclose(np.ptp(held.rating - once.rating), 0.0, atol=1e-9)
    assert np.isfinite(fit_with_ties(reweighted(repeated), model).variance).all()
    with pytest.raises(UsageError, match="'m99'"):
        fit_with_ties(repeated, model, anchor=("m99", 1000.0))


@pytest.mark.parametrize("model", MODELS)
def test_without_ties_the_ratings_are_those_of_the_decided_votes(model: TieModel) -> None:
    counts = fold(random_votes(500, 5, ties=0.0)[0])
    found, plain = fit_with_ties(counts, model), fit(counts)
    np.testing.assert_allclose(found.rating, plain.rating)
    np.testing.assert_allclose(found.variance, plain.variance)
    assert found.tie is not None
    assert (found.tie.value, found.tie.lower) == ({"davidson": 0.0, "rao-kupper": 1.0}[model], None)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("a", "b", "tie")], "no model beat one that had beaten it"),
        ([("a", "b", "tie")] * 2000, "no model beat one that had beaten it"),
        ([("a", "b", "tie")] * 4000 + [("c", "d", "model_a")], "2 groups"),
        ([("a", "b", "model_a"), ("a", "b", "tie")], "no model beat one that had beaten it"),
        ([("a", "b", "model_a"), ("b", "c", "tie"), ("a", "c", "tie")], "no model beat one"),
        ([("a", "b", "model_a"), ("a", "b", "model_b"), ("c", "d", "tie")], "2 groups"),
        ([("a", "b", "model_a"), ("b", "a", "model_a"), ("c", "a", "model_a")], "never lost"),
    ],
)
def test_what_votes_do_not_bound_is_finite_and_told(
    model: TieModel, rows: list[tuple[str, str, str]], words: str
) -> None:
    found = fit_with_ties(fold(votes_of(*rows, n=30)), model)
    assert not found.connection.is_finite and found.ridge == RIDGE
    assert any(words in line for line in found.connection.lines())
    for values in (found.rating, found.lower, found.upper, found.variance):
        assert np.isfinite(values).all()
    assert found.tie is not None and np.isfinite(found.tie.value)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_that_only_ties_needs_no_ridge_among_others_in_a_ring(model: TieModel) -> None:
    rows = [("a", "b", "model_a")] * 3 + [("a", "b", "model_b")] * 2 + [("c", "a", "tie")] * 4
    found = fit_with_ties(fold(votes_of(*rows)), model)
    assert found.ridge is None
    assert np.abs(found.theta).max() < 10


@pytest.mark.parametrize("model", MODELS)
def test_nobody_and_one_lone_pair(model: TieModel) -> None:
    nobody = fit_with_ties(counts_of((), np.zeros((0, 0)), np.zeros((0, 0))), model)
    assert nobody.models == () and nobody.tie is None
    pair = [("a", "b", "model_a"), ("a", "b", "model_b"), ("a", "b", "tie")]
    found = fit_with_ties(fold(votes_of(*pair)), model)
    np.testing.assert_allclose(found.rating, 1000.0)
    wanted = {"davidson": 1.0, "rao-kupper": 2.0}[model]
    assert found.tie is not None and found.tie.value == pytest.approx(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_bootstrap_intervals_agree_with_the_sandwich(model: TieModel) -> None:
    counts = fold(drawn(model, 5000, 5, 1.6, seed=5)[0])
    found, resampled = (
        fit_with_ties(counts, model),
        bootstrap_ratings(counts, rounds=400, seed=1, ties=model),
    )
    np.testing.assert_allclose(resampled.rating, found.rating)
    widths = (resampled.upper - resampled.lower) / (found.upper - found.lower)
    assert widths.min() > 0.85 and widths.max() < 1.15
    assert resampled.tie == found.tie


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_intervals_hold_the_truth_as_often_as_they_say(model: TieModel) -> None:
    """50 seeds, 20 models and one tie parameter each."""
    held, held_ties = 0, 0
    for seed in range(50):
        votes, theta = drawn(model, 8000, 20, 1.7, seed)
        found = fit_with_ties(fold(votes), model)
        truth = POINTS * theta + 1000
        held += int(((found.lower <= truth) & (truth <= found.upper)).sum())
        assert found.tie is not None and found.tie.lower is not None and found.tie.upper is not None
        held_ties += found.tie.lower <= 1.7 <= found.tie.upper
    assert 0.93 <= held / 1000 <= 0.97
    assert held_ties >= 43


@pytest.mark.parametrize("model", MODELS)
def test_resamples_of_few_votes_stay_finite(model: TieModel) -> None:
    rows = [("a", "b", "model_a")] * 4 + [("a", "b", "model_b"), ("b", "c", "tie")]
    for votes in (votes_of(*rows), votes_of(("a", "b", "tie"), ("c", "d", "model_a")), votes_of()):
        found = bootstrap_ratings(fold(votes), rounds=40, ties=model)
        assert np.isfinite(found.lower).all() and np.isfinite(found.upper).all()
