import numpy as np
import pytest
from voting import names, random_votes

from fastchat.arena.active import (
    PairChooser,
    choose_pairs,
    expected_widths,
    pair_chances,
    pair_gains,
    without_battles,
)
from fastchat.arena.counts import Counts, counts_of, fold
from fastchat.arena.rating import RIDGE, information, solve, win_probabilities


def known(n: int = 2000, m: int = 6) -> Counts:
    return fold(random_votes(n, m)[0])


def with_one_new(counts: Counts) -> Counts:
    wins, ties = (np.pad(matrix, (0, 1)) for matrix in (counts.wins, counts.ties))
    return counts_of((*counts.models, "new"), wins, ties)


def told(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Chances and information of the votes, as pairs are chosen by."""
    p = win_probabilities(solve(counts, ridge=RIDGE))
    return p, information(counts.battles, p, ridge=RIDGE)


def centred(matrix: np.ndarray) -> np.ndarray:
    """The covariance of theta about its mean, of the information."""
    m = len(matrix)
    centring = np.eye(m) - 1.0 / m
    return centring @ np.linalg.inv(matrix) @ centring


def widths(matrix: np.ndarray) -> float:
    """The sum of the standard errors, of the information."""
    return float(np.sqrt(np.diag(centred(matrix))).sum())


def slopes(votes: np.ndarray, p: np.ndarray) -> tuple[float, float]:
    """The sum of the standard errors, and how fast a vote of the steepest pair lets it fall."""
    covariance = centred(information(votes, p))
    errors = np.sqrt(np.diag(covariance))
    steepest = 0.0
    for i, j in zip(*np.triu_indices(len(p), 1), strict=True):
        column = covariance[:, i] - covariance[:, j]
        slope = 0.5 * p[i, j] * p[j, i] * float((column**2 / errors).sum())
        steepest = max(steepest, slope)
    return float(errors.sum()), steepest


@pytest.mark.parametrize("some_new", [False, True])
def test_gains_are_what_one_more_battle_takes_off_the_widths(some_new: bool) -> None:
    counts = with_one_new(known()) if some_new else known()
    gains = pair_gains(counts)
    p, before = told(counts)
    m = len(p)
    for i in range(m):
        for j in range(i + 1, m):
            d = np.eye(m)[i] - np.eye(m)[j]
            after = before + p[i, j] * p[j, i] * np.outer(d, d)
            assert gains[i, j] == pytest.approx(widths(before) - widths(after), rel=1e-6)
    np.testing.assert_allclose(gains, gains.T)
    assert not np.diag(gains).any()
    assert expected_widths(counts).sum() == pytest.approx(widths(before))


@pytest.mark.parametrize(("n", "m"), [(0, 12), (8, 12), (300, 12), (40_000, 12), (30, 40)])
def test_the_pair_chosen_gains_most_of_all_however_few_the_votes(n: int, m: int) -> None:
    counts = fold(random_votes(n, m)[0]) if n else without_battles(names(m))
    gains = np.triu(pair_gains(counts), 1)
    (i, j), *_ = choose_pairs(counts, 1)
    assert gains[i, j] == pytest.approx(gains.max(), rel=1e-9)


def test_pairs_that_may_not_meet_are_not_chosen() -> None:
    counts = with_one_new(known())
    allowed = np.ones((7, 7), bool)
    allowed[6] = allowed[:, 6] = False
    allowed[6, 3] = allowed[3, 6] = True
    chooser = PairChooser.after(counts)
    assert [chooser.next(allowed=allowed) for _ in range(3)] == [(3, 6)] * 3


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.7, 1.7])
def test_pairs_chosen_one_by_one_are_shared_as_well_as_can_be(spread: float) -> None:
    """The equivalence theorem: at the best shares no pair's slope is above their mean slope.

    The widths fall as 1 / sqrt(n), so that the mean slope times n is half of them; by how much
    the steepest pair exceeds that is by how much, at most, they are wider than the least.
    """
    m, n = 12, 4000
    theta = np.random.default_rng(5).normal(0.0, spread, m)
    p = win_probabilities(theta)
    chooser = PairChooser(p, centred(RIDGE * np.eye(m)))
    votes = np.zeros((m, m))
    for _ in range(n):
        i, j = chooser.next()
        votes[i, j] += 1.0
        votes[j, i] += 1.0
    reached, steepest = slopes(votes, p)
    assert n * steepest <= 0.5 * reached * 1.03
    even = np.full((m, m), n / (m * (m - 1) / 2))
    np.fill_diagonal(even, 0.0)
    reached_evenly, steepest_evenly = slopes(even, p)
    assert reached < reached_evenly
    assert n * steepest_evenly > 0.5 * reached_evenly * 1.2


def test_a_new_model_is_asked_about_first() -> None:
    counts = with_one_new(known())
    assert all(6 in pair for pair in choose_pairs(counts, 10))
    chances = pair_chances(counts)
    assert chances[6].sum() > 0.99
    assert np.triu(chances, 1).sum() == pytest.approx(1.0)


def test_pairs_chosen_together_do_not_repeat_one_battle() -> None:
    pairs = choose_pairs(without_battles(names(10)), 20, rng=np.random.default_rng(0))
    assert len({tuple(sorted(pair)) for pair in pairs}) > 10
    assert {model for pair in pairs for model in pair} == set(range(10))


def test_sides_are_drawn_by_the_generator() -> None:
    counts = with_one_new(known())
    pairs = choose_pairs(counts, 40, rng=np.random.default_rng(0))
    assert 5 < sum(first == 6 for first, _ in pairs) < 35
    assert pairs == choose_pairs(counts, 40, rng=np.random.default_rng(0))


def test_nobody_and_one_model_have_no_pairs() -> None:
    for m in (0, 1):
        assert choose_pairs(without_battles(names(m)), 3) == []
        assert not pair_chances(without_battles(names(m))).any()
