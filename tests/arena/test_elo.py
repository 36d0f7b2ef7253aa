import json
from pathlib import Path

import numpy as np
import pytest
from voting import random_votes, real_votes, votes_of

from fastchat.arena.elo import bootstrap_elo, median_ratings, online_elo
from fastchat.errors import UsageError


@pytest.mark.parametrize("which", ["llmfao", "mt_bench_human", "mt_bench_gpt4_pair"])
def test_real_votes_in_their_order_give_the_reference(shared: Path, which: str) -> None:
    reference = json.loads((shared / "data/reference/ratings.json").read_text("utf-8"))
    wanted = reference[which]["elo_online"]
    votes = real_votes(shared, which)
    found = dict(zip(votes.models, online_elo(votes), strict=True))
    assert found == pytest.approx(wanted, abs=1e-6)


def test_one_vote_moves_two_points_each_way() -> None:
    assert online_elo(votes_of(("a", "b", "model_a"))).tolist() == pytest.approx([1002.0, 998.0])
    assert online_elo(votes_of(("a", "b", "tie"))).tolist() == pytest.approx([1000.0, 1000.0])


def test_rounds_together_are_rounds_one_by_one() -> None:
    votes = random_votes(300, 5)[0]
    rng = np.random.default_rng(42)
    rows = rng.integers(0, 300, (300, 3))
    wanted = [online_elo(votes.take(rows[:, i])) for i in range(3)]
    np.testing.assert_allclose(bootstrap_elo(votes, rounds=3), wanted)


def test_medians_are_whole_points_with_halves_up() -> None:
    samples = np.array([[1000.5, 999.4], [1000.5, 999.6]])
    assert median_ratings(samples).tolist() == [1001.0, 1000.0]


def test_one_round_is_refused_and_no_votes_are_the_start() -> None:
    with pytest.raises(UsageError):
        bootstrap_elo(votes_of(("a", "b", "tie")), rounds=1)
    assert online_elo(votes_of()).tolist() == []


def test_the_seed_decides_the_resamples() -> None:
    votes = random_votes(200, 4)[0]
    first, same, other = (bootstrap_elo(votes, rounds=3, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
