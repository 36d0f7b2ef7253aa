import numpy as np
import pytest
from voting import names, random_votes

from fastchat.arena.active import (
    choose_pairs,
    expected_widths,
    pair_chances,
    pair_gains,
    without_battles,
)
from fastchat.arena.counts import Counts, counts_of, fold


def known(n: int = 2000, m: int = 6) -> Counts:
    return fold(random_votes(n, m)[0])


def with_one_new(counts: Counts) -> Counts:
    wins, ties = (np.pad(matrix, (0, 1)) for matrix in (counts.wins, counts.ties))
    return counts_of((*counts.models, "new"), wins, ties)


def test_gains_are_what_one_more_battle_takes_off_the_widths() -> None:
    counts = known()
    gains = pair_gains(counts)
    before = expected_widths(counts).sum()
    for i, j in ((0, 1), (2, 5)):
        ties = counts.ties.copy()
        ties[i, j] += 1.0
        ties[j, i] += 1.0
        after = expected_widths(counts_of(counts.models, counts.wins, ties)).sum()
        assert before - after == pytest.approx(gains[i, j], rel=0.05)
    np.testing.assert_allclose(gains, gains.T)
    assert not np.diag(gains).any()


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
