import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from voting import names, random_votes, real_votes, tool, votes_of

from fastchat.arena.counts import average_win_rates, fold, reweighted, win_fractions
from fastchat.arena.rating import RIDGE, Ratings, anchored, fit, ranks
from fastchat.arena.votes import Votes, votes_from_rows
from fastchat.errors import UsageError


def largest_difference(
    found: Ratings, values: np.ndarray, wanted: dict[str, Any], key: str
) -> float:
    assert set(found.models) == set(wanted)
    return max(abs(v - wanted[m][key]) for m, v in zip(found.models, values, strict=True))


@pytest.fixture(params=["llmfao", "mt_bench_human", "mt_bench_gpt4_pair"])
def real(request: pytest.FixtureRequest, shared: Path) -> tuple[Votes, dict[str, Any]]:
    """Votes that people or a model gave, and what they must come to."""
    reference = json.loads((shared / "data/reference/ratings.json").read_text("utf-8"))
    return real_votes(shared, request.param), reference[request.param]


def test_real_votes_reach_the_exact_optimum_and_its_intervals(
    real: tuple[Votes, dict[str, Any]],
) -> None:
    votes, wanted = real
    found = fit(fold(votes))
    assert largest_difference(found, found.rating, wanted["bt"], "rating") < 1e-6
    assert largest_difference(found, found.lower, wanted["bt"], "rating_lower") < 1e-4
    assert largest_difference(found, found.upper, wanted["bt"], "rating_upper") < 1e-4
    by_name = dict(zip(found.models, found.rank.tolist(), strict=True))
    assert by_name == wanted["rank_ub_from_sandwich"]
    counts = dict(zip(found.models, found.n_battles.tolist(), strict=True))
    assert counts == wanted["num_battles"]


def test_reweighted_real_votes_are_those_of_arena_rank(real: tuple[Votes, dict[str, Any]]) -> None:
    votes, reference = real
    wanted = reference["arena_rank_reweighted"]
    found = fit(reweighted(fold(votes)))
    assert largest_difference(found, found.rating, wanted, "rating") < 0.02
    assert largest_difference(found, found.lower, wanted, "rating_lower") < 0.02


@pytest.mark.parametrize("m", [2, 5, 20])
def test_counts_in_exact_proportion_give_back_the_true_ratings(shared: Path, m: int) -> None:
    rows, truth = tool(shared, "gen_battles").gen_exact(m)
    votes = votes_from_rows(*([r[c] for r in rows] for c in ("model_a", "model_b", "winner")))
    found = fit(fold(votes))
    wanted = [truth["ratings"][name] for name in found.models]
    np.testing.assert_allclose(found.rating, wanted, atol=1e-6)


def test_the_gradient_of_the_likelihood_is_nothing_at_the_ratings() -> None:
    votes, _ = random_votes(3000, 12)
    theta = fit(fold(votes)).theta
    p = 1.0 / (1.0 + np.exp(theta[votes.b] - theta[votes.a]))
    residual = votes.score - p
    gradient = np.bincount(votes.a, residual, 12) - np.bincount(votes.b, residual, 12)
    assert np.abs(gradient).max() < 1e-9 * len(votes)


def test_intervals_are_those_of_the_sandwich_written_out() -> None:
    votes, _ = random_votes(500, 5)
    found = fit(fold(votes))
    x = np.zeros((len(votes), 5))
    x[np.arange(len(votes)), votes.a] = 1.0
    x[np.arange(len(votes)), votes.b] = -1.0
    p = 1.0 / (1.0 + np.exp(-(x @ found.theta)))
    h = np.linalg.pinv(x.T @ (x * (p * (1 - p))[:, None]))
    covariance = h @ (x.T @ (x * ((votes.score - p) ** 2)[:, None])) @ h
    wanted = np.diag(covariance) * (400 / np.log(10)) ** 2
    np.testing.assert_allclose(found.variance, wanted, rtol=1e-9)


def test_weights_count_as_so_many_votes_in_the_ratings() -> None:
    votes, _ = random_votes(400, 6)
    times = np.random.default_rng(1).integers(1, 4, len(votes))
    repeated = votes.take(np.repeat(np.arange(len(votes)), times))
    weighted = Votes(
        models=votes.models,
        a=votes.a,
        b=votes.b,
        outcome=votes.outcome,
        weight=times.astype(float),
    )
    found, wanted = fit(fold(weighted)), fit(fold(repeated))
    np.testing.assert_allclose(found.rating, wanted.rating, atol=1e-8)
    assert (found.variance > wanted.variance).all()


def test_the_mean_is_1000_and_an_anchor_moves_all_alike() -> None:
    votes, _ = random_votes(1000, 8)
    free = fit(fold(votes))
    assert free.rating.mean() == pytest.approx(1000.0)
    held = fit(fold(votes), anchor=("m03", 1114.0))
    assert held.rating[3] == pytest.approx(1114.0)
    np.testing.assert_allclose(np.ptp(held.rating - free.rating), 0.0, atol=1e-9)
    assert held.anchor == "m03"
    with pytest.raises(UsageError, match="'m99'"):
        anchored(free, "m99", 1000.0)


def test_a_start_near_the_end_leads_to_the_same_ratings() -> None:
    votes, _ = random_votes(1000, 8)
    first = fit(fold(votes))
    start = dict(zip(first.models, first.theta + 0.3, strict=True))
    np.testing.assert_allclose(fit(fold(votes), start=start).rating, first.rating, atol=1e-8)


def test_extreme_but_bounded_votes_converge() -> None:
    votes = votes_of(
        *[("a", "b", "model_a")] * 5000,
        ("a", "b", "model_b"),
        *[("b", "c", "model_a")] * 5000,
        ("b", "c", "model_b"),
    )
    found = fit(fold(votes))
    assert found.rating[0] - found.rating[1] == pytest.approx(400 * np.log10(5000), abs=1e-6)
    assert found.ridge is None


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("a", "b", "model_a"), ("b", "c", "tie")], "never lost"),
        ([("a", "b", "model_b"), ("b", "c", "tie")], "never won"),
        ([("a", "b", "tie"), ("c", "d", "tie")], "2 groups"),
        ([("a", "b", "tie"), ("c", "d", "tie"), ("a", "c", "model_a")], "one group of models won"),
    ],
)
def test_ratings_that_votes_do_not_bound_are_finite_and_told(
    rows: list[tuple[str, str, str]], words: str
) -> None:
    found = fit(fold(votes_of(*rows, n=10)))
    assert not found.connection.is_finite
    assert found.ridge == RIDGE
    assert any(words in line for line in found.connection.lines())
    for values in (found.rating, found.lower, found.upper, found.variance):
        assert np.isfinite(values).all()
    assert (found.upper - found.lower > 100).any()


def test_votes_without_scatter_are_no_certainty() -> None:
    found = fit(fold(votes_of(("a", "b", "tie"))))
    assert found.rating.tolist() == [1000.0, 1000.0]
    # One vote's information is 1/4 in theta_a - theta_b, of which each model has half.
    np.testing.assert_allclose(found.variance, (400 / np.log(10)) ** 2)


def test_no_battles_and_one_model_are_boards_without_rows_or_doubt() -> None:
    assert fit(fold(votes_of())).models == ()
    alone = Votes(
        models=("only",),
        a=np.zeros(0, np.int32),
        b=np.zeros(0, np.int32),
        outcome=np.zeros(0, np.int8),
    )
    assert fit(fold(alone)).models == ()


def test_models_without_votes_are_left_out() -> None:
    votes = votes_from_rows(["a", "b"], ["b", "a"], ["tie", "model_a"], models=["a", "b", "unseen"])
    assert fit(fold(votes)).models == ("a", "b")


def test_a_rank_is_one_more_than_the_models_that_are_better_beyond_doubt() -> None:
    lower = np.array([10.0, 5.0, 0.0, 3.0])
    upper = np.array([20.0, 15.0, 3.0, 4.0])
    wanted = [1 + sum(lo > u for lo in lower) for u in upper]
    assert ranks(lower, upper).tolist() == wanted == [1, 1, 3, 3]


def test_folding_in_blocks_misses_nothing() -> None:
    votes, _ = random_votes(200_000, 3)
    counts = fold(votes)
    assert counts.total == 200_000
    first, second, lost = votes.a == 0, votes.b == 0, votes.outcome == 1
    won = np.count_nonzero(first & (votes.outcome == 0)) + np.count_nonzero(second & lost)
    assert counts.wins[0].sum() == won


def test_win_fractions_leave_ties_out() -> None:
    votes = votes_of(
        ("a", "b", "model_a"),
        ("b", "a", "model_b"),
        ("a", "b", "model_b"),
        ("a", "b", "tie"),
        ("b", "c", "tie"),
    )
    counts = fold(votes)
    fractions = win_fractions(counts)
    assert fractions[0, 1] == pytest.approx(2 / 3)
    assert fractions[1, 0] == pytest.approx(1 / 3)
    assert np.isnan(fractions[1, 2])
    assert average_win_rates(counts)[0] == pytest.approx(2 / 3)
    assert np.isnan(average_win_rates(counts)[2])


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """50 seeds, 20 models each: 1000 intervals."""
    held = 0
    for seed in range(50):
        votes, theta = random_votes(8000, 20, seed=seed)
        found = fit(fold(votes))
        truth = 400 / np.log(10) * theta + 1000
        held += int(((found.lower <= truth) & (truth <= found.upper)).sum())
    assert 0.93 <= held / 1000 <= 0.97


def test_the_names_of_the_helper_are_those_of_the_votes() -> None:
    assert random_votes(10, 3)[0].models == names(3)
