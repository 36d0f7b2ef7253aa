import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from voting import random_votes, real_votes, tool, votes_of

from fastchat.arena.counts import fold, reweighted, reweighted_votes
from fastchat.arena.rating import fit
from fastchat.arena.style_control import (
    bootstrap_style,
    fit_style,
    relative_differences,
    standardised,
)
from fastchat.arena.votes import Votes, votes_from_rows
from fastchat.errors import DataError, UsageError

FEATURES = ("sum_assistant_tokens", "header_count", "list_count", "bold_count")


def count(row: dict[str, Any], feature: str, side: str) -> float:
    if "assistant" in feature:
        return row["conv_metadata"][feature.replace("assistant", f"assistant_{side}")]
    return sum(row["conv_metadata"][f"{feature}_{side}"].values())


def test_exact_style_data_give_back_ratings_and_coefficients(shared: Path) -> None:
    rows, truth = tool(shared, "gen_battles").gen_style(4)
    votes = votes_from_rows(*([r[c] for r in rows] for c in ("model_a", "model_b", "winner")))
    a, b = (np.array([[count(r, f, s) for f in FEATURES] for r in rows], float) for s in "ab")
    found = fit_style(votes, relative_differences(a, b), FEATURES)
    wanted = [truth["ratings"][name] for name in found.ratings.models]
    np.testing.assert_allclose(found.ratings.rating, wanted, atol=1e-3)
    coefficients = [math.log(2), math.log(1.5), 0.0, math.log(4 / 3)]
    np.testing.assert_allclose(found.coefficient, coefficients, atol=1e-4)
    assert np.abs(fit(fold(votes)).rating - wanted).max() > 10


def with_style(n: int, m: int, beta: list[float], *, seed: int = 0) -> tuple[Votes, np.ndarray]:
    rng = np.random.default_rng(seed)
    votes, theta = random_votes(n, m, seed=seed)
    x = rng.normal(size=(n, len(beta)))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    p = 1.0 / (1.0 + np.exp(theta[votes.b] - theta[votes.a] - x @ beta))
    outcome = (rng.random(n) >= p).astype(np.int8)
    return Votes(models=votes.models, a=votes.a, b=votes.b, outcome=outcome), x


def test_covariance_is_the_sandwich_written_out() -> None:
    votes, x = with_style(2000, 5, [0.4, -0.2])
    found = fit_style(votes, x, ["f", "g"])
    design = np.zeros((len(votes), 7))
    design[np.arange(len(votes)), votes.a] = 1.0
    design[np.arange(len(votes)), votes.b] = -1.0
    design[:, 5:] = x
    parameters = np.concatenate([found.ratings.theta, found.coefficient])
    p = 1.0 / (1.0 + np.exp(-(design @ parameters)))
    assert np.abs(design.T @ (votes.score - p)).max() < 1e-9 * len(votes)
    h = np.linalg.pinv(design.T @ (design * (p * (1 - p))[:, None]))
    covariance = h @ (design.T @ (design * ((votes.score - p) ** 2)[:, None])) @ h
    points = np.diag(covariance)[:5] * (400 / math.log(10)) ** 2
    np.testing.assert_allclose(found.ratings.variance, points, rtol=1e-5)
    reach = 1.959963984540054 * np.sqrt(np.diag(covariance)[5:])
    np.testing.assert_allclose(found.upper - found.coefficient, reach, rtol=1e-5)


def test_a_feature_without_variation_is_dropped_and_named() -> None:
    votes, x = with_style(500, 4, [0.4])
    found = fit_style(votes, np.hstack([x, np.full((500, 1), 0.25)]), ["f", "still"])
    assert found.names == ("f",)
    assert found.dropped == ("still",)
    alone = fit_style(votes, np.zeros((500, 1)), ["still"])
    np.testing.assert_allclose(alone.ratings.rating, fit(fold(votes)).rating, atol=1e-6)


def test_a_feature_that_foretells_every_vote_needs_the_stated_ridge() -> None:
    votes, _ = with_style(300, 4, [0.0])
    found = fit_style(votes, (1.0 - 2.0 * votes.outcome[:, None]).astype(np.float64), ["oracle"])
    assert found.ridge == 1.0
    assert np.isfinite(found.coefficient).all() and np.isfinite(found.ratings.rating).all()


def test_weights_and_models_without_votes() -> None:
    votes, x = with_style(400, 4, [0.3])
    twice = Votes(
        models=(*votes.models, "unseen"),
        a=votes.a,
        b=votes.b,
        outcome=votes.outcome,
        weight=np.full(400, 2.0),
    )
    once, heavy = fit_style(votes, x, ["f"]), fit_style(twice, x, ["f"])
    assert heavy.ratings.models == votes.models
    np.testing.assert_allclose(heavy.ratings.rating, once.ratings.rating, atol=1e-6)
    np.testing.assert_allclose(heavy.ratings.variance, once.ratings.variance, rtol=1e-6)


def test_votes_that_bound_nothing_are_finite() -> None:
    votes = votes_of(("a", "b", "model_a"), ("c", "d", "tie"), n=20)
    x = np.random.default_rng(0).normal(size=(40, 1))
    found = fit_style(votes, x, ["f"])
    assert not found.ratings.connection.is_finite
    assert np.isfinite(found.ratings.variance).all()


def test_no_votes_are_no_rows_and_an_infinite_feature_is_told() -> None:
    assert fit_style(votes_of(), np.zeros((0, 1)), ["f"]).ratings.models == ()
    with pytest.raises(DataError, match="not a finite number"):
        standardised(np.array([[np.nan]]), ["f"])
    with pytest.raises(DataError, match="rows of features"):
        fit_style(votes_of(("a", "b", "tie")), np.zeros((2, 1)), ["f"])


# What arena-rank 0.1.1 gives for these votes with the columns question_id % 10 and turn: whether it
# re-weights, its `reg`, its ratings (in the order of names) and the lower bounds of the first two.
OF_ARENA_RANK = [
    (False, 1e-9, [867.6392, 1111.9035, 1104.3162, 1177.0061, 748.8446, 990.2904], 850.1543),
    (True, 1e-9, [866.9129, 1114.7792, 1105.5248, 1176.7842, 749.5751, 986.4238], 848.8993),
    (False, 1.0, [867.6893, 1111.7026, 1104.1794, 1177.3214, 748.9594, 990.1479], 850.1999),
    (True, 1.0, [866.9967, 1114.6130, 1105.3869, 1176.8779, 749.7326, 986.3929], 848.9797),
]


@pytest.mark.parametrize(("reweights", "reg", "ratings", "lower"), OF_ARENA_RANK)
def test_columns_of_ones_own_give_what_arena_rank_gives(
    shared: Path, reweights: bool, reg: float, ratings: list[float], lower: float
) -> None:
    votes = real_votes(shared, "mt_bench_human")
    text = (shared / "data/mt_bench_human/human.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    x = np.array([[r["question_id"] % 10, r["turn"]] for r in rows], float)
    votes = reweighted_votes(votes) if reweights else votes
    found = fit_style(votes, x, ["question", "turn"], ridge=reg)
    np.testing.assert_allclose(found.ratings.rating, ratings, atol=0.02)
    assert found.ratings.lower[0] == pytest.approx(lower, abs=0.05)


def test_votes_reweighted_fold_into_the_reweighted_counts() -> None:
    votes, _ = random_votes(3000, 6)
    found, wanted = fold(reweighted_votes(votes)), reweighted(fold(votes))
    for name in ("wins", "ties", "wins_squared", "ties_squared"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name))


def test_bootstrap_intervals_agree_with_the_sandwich() -> None:
    votes, x = with_style(3000, 5, [0.4, -0.2])
    found, drawn = (
        fit_style(votes, x, ["f", "g"]),
        bootstrap_style(votes, x, ["f", "g"], rounds=400),
    )
    np.testing.assert_allclose(drawn.ratings.rating, found.ratings.rating)
    widths = drawn.ratings.upper - drawn.ratings.lower
    np.testing.assert_allclose(widths, found.ratings.upper - found.ratings.lower, rtol=0.15)
    np.testing.assert_allclose(drawn.upper - drawn.lower, found.upper - found.lower, rtol=0.15)
    same = bootstrap_style(votes, x, ["f", "g"], rounds=5, seed=3)
    again = bootstrap_style(votes, x, ["f", "g"], rounds=5, seed=3)
    np.testing.assert_array_equal(same.lower, again.lower)
    anchored = bootstrap_style(votes, x, ["f", "g"], rounds=5, anchor=("m01", 1200.0)).ratings
    assert anchored.rating[1] == pytest.approx(1200.0)
    assert anchored.lower[1] < 1200.0 < anchored.upper[1]


def test_resamples_that_bound_nothing_stay_finite() -> None:
    rows = [("a", "b", "model_a")] * 4 + [("a", "b", "model_b"), ("b", "c", "tie")]
    x = np.array([[1.0], [0.0], [1.0], [1.0], [0.0], [0.5]])
    found = bootstrap_style(votes_of(*rows), x, ["f"], rounds=40)
    for values in (found.ratings.lower, found.ratings.upper, found.lower, found.upper):
        assert np.isfinite(values).all()
    assert bootstrap_style(votes_of(), np.zeros((0, 1)), ["f"]).ratings.models == ()
    with pytest.raises(UsageError, match="--num-bootstrap 1"):
        bootstrap_style(votes_of(*rows), x, ["f"], rounds=1)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """50 seeds, 12 models and two coefficients each."""
    held, held_style = 0, 0
    for seed in range(50):
        votes, x = with_style(4000, 12, [0.4, -0.2], seed=seed)
        found = fit_style(votes, x, ["f", "g"])
        truth = 400 / math.log(10) * random_votes(4000, 12, seed=seed)[1] + 1000
        held += int(((found.ratings.lower <= truth) & (truth <= found.ratings.upper)).sum())
        held_style += int(((found.lower <= [0.4, -0.2]) & (found.upper >= [0.4, -0.2])).sum())
    assert 0.93 <= held / 600 <= 0.97
    assert held_style >= 90
