import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from voting import random_votes, tool, votes_of

from fastchat.arena.counts import fold
from fastchat.arena.rating import fit
from fastchat.arena.style_control import fit_style, relative_differences, standardised
from fastchat.arena.votes import Votes, votes_from_rows
from fastchat.errors import DataError

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
