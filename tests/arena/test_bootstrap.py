import numpy as np
import pytest
from voting import random_votes, votes_of

from fastchat.arena.bootstrap import bootstrap, bootstrap_ratings, resamples
from fastchat.arena.counts import counts_of, fold, reweighted
from fastchat.arena.rating import fit, solve
from fastchat.arena.tie_models import TieModel
from fastchat.errors import UsageError


@pytest.mark.parametrize("n", [600, 60_000])
def test_resamples_have_as_many_votes_and_the_moments_of_the_multinomial(n: int) -> None:
    counts = fold(random_votes(n, 4)[0])
    drawn = [(w, t) for w, t in resamples(counts, rounds=400, seed=3)]
    totals = {round(float(w.sum() + t.sum() / 2)) for w, t in drawn}
    assert totals == {n}
    wins = np.stack([w for w, _ in drawn])
    share = counts.wins / n
    deviation = np.sqrt(n * share * (1 - share))
    off = np.abs(wins.mean(axis=0) - counts.wins)[counts.wins > 0]
    assert (off < 5 * (deviation / 20)[counts.wins > 0]).all()
    np.testing.assert_allclose(
        wins.std(axis=0)[counts.wins > 0], deviation[counts.wins > 0], rtol=0.25
    )


def test_every_resample_is_rated_to_its_own_optimum() -> None:
    counts = fold(random_votes(20_000, 6)[0])
    thetas = bootstrap(counts, rounds=5, seed=1)
    for theta, (wins, ties) in zip(thetas, resamples(counts, rounds=5, seed=1), strict=True):
        wanted = solve(counts_of(counts.models, wins, ties))
        np.testing.assert_allclose(theta, wanted, atol=1e-5)


def test_quantiles_agree_with_the_sandwich() -> None:
    counts = fold(random_votes(20_000, 6)[0])
    sandwich, drawn = fit(counts), bootstrap_ratings(counts, rounds=1000)
    np.testing.assert_allclose(drawn.rating, sandwich.rating)
    np.testing.assert_allclose(drawn.upper - drawn.lower, sandwich.upper - sandwich.lower, rtol=0.1)


def test_the_same_seed_gives_the_same_intervals() -> None:
    counts = fold(random_votes(500, 4)[0])
    first, same, other = (bootstrap_ratings(counts, rounds=20, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.lower, same.lower)
    assert (first.lower != other.lower).any()


def test_resamples_that_bound_nothing_stay_finite() -> None:
    rows = [("a", "b", "model_a")] * 4 + [("a", "b", "model_b"), ("b", "c", "tie")]
    found = bootstrap_ratings(fold(votes_of(*rows)), rounds=50)
    assert np.isfinite(found.lower).all() and np.isfinite(found.upper).all()
    disconnected = bootstrap_ratings(fold(votes_of(("a", "b", "tie"), ("c", "d", "model_a"))))
    assert np.isfinite(disconnected.variance).all()


def test_weighted_votes_spread_as_their_sandwich_says() -> None:
    counts = reweighted(fold(random_votes(20_000, 6)[0]))
    sandwich, drawn = fit(counts), bootstrap_ratings(counts, rounds=1000)
    np.testing.assert_allclose(drawn.upper - drawn.lower, sandwich.upper - sandwich.lower, rtol=0.1)


def test_one_round_is_no_interval_and_no_votes_are_no_rows() -> None:
    with pytest.raises(UsageError, match="--num-bootstrap 1"):
        bootstrap_ratings(fold(votes_of(("a", "b", "tie"))), rounds=1)
    assert bootstrap_ratings(fold(votes_of())).models == ()


@pytest.mark.parametrize("ties", [None, "davidson"])
def test_intervals_do_not_depend_on_how_many_are_fitted_at_a_time(ties: TieModel | None) -> None:
    counts = fold(random_votes(3000, 5)[0])
    one, three = (
        bootstrap_ratings(counts, rounds=30, seed=1, ties=ties, threads=n) for n in (1, 3)
    )
    np.testing.assert_array_equal(one.lower, three.lower)
    np.testing.assert_array_equal(one.variance, three.variance)
