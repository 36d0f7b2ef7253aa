import numpy as np
import polars as pl
import pytest
from voting import random_votes, votes_of

from fastchat.arena.outliers import first_votes_a_day, outliers
from fastchat.arena.votes import WIN_A, WIN_B, Votes


def test_honest_voters_are_hardly_ever_left_out() -> None:
    votes, _ = random_votes(20_000, 60)
    judges = np.random.default_rng(0).integers(0, 800, len(votes))
    found = outliers(votes, judges)
    assert len(found) <= 0.05 * 800


def test_a_voter_against_everybody_is_caught() -> None:
    votes, _ = random_votes(20_000, 8, ties=0.1)
    judges = np.random.default_rng(0).integers(1, 400, len(votes))
    theirs = np.arange(60)
    judges[theirs] = 0
    outcome = votes.outcome.copy()
    strength = np.bincount(votes.a, votes.score) / np.bincount(votes.a)
    worse_first = strength[votes.a[theirs]] < strength[votes.b[theirs]]
    outcome[theirs] = np.where(worse_first, WIN_A, WIN_B)
    planted = Votes(models=votes.models, a=votes.a, b=votes.b, outcome=outcome)
    found = outliers(planted, judges)
    assert found[0].judge == 0
    assert found[0].n_votes == 60 and found[0].evidence > 20


def test_few_votes_and_ties_are_no_evidence() -> None:
    assert outliers(votes_of(), np.zeros(0, np.int64)) == []
    ties = votes_of(("a", "b", "tie"), n=50)
    assert outliers(ties, np.zeros(50, np.int64)) == []
    four = votes_of(*[("a", "b", "model_a")] * 200, *[("a", "b", "model_b")] * 4)
    judges = np.concatenate([np.arange(200) + 1, np.zeros(4, np.int64)])
    assert outliers(four, judges) == []


def test_each_judge_keeps_the_first_votes_of_a_day() -> None:
    noon = 1_700_000_000.0 - 1_700_000_000.0 % 86_400 + 43_200
    frame = pl.DataFrame(
        {
            "judge": ["u", "u", "v", "u", "u", None],
            "tstamp": [noon, noon + 1, noon + 2, noon + 86_400, noon + 40_000, noon],
        }
    )
    kept = first_votes_a_day(frame, 1)
    assert kept["tstamp"].to_list() == [noon, noon + 2, noon + 86_400, noon]
    there = first_votes_a_day(frame, 1, time_zone="Asia/Tokyo")
    assert there["tstamp"].to_list() == [noon, noon + 2, noon + 86_400, noon]


def test_the_evidence_is_the_product_over_votes_written_out() -> None:
    """40 votes for a by others and 5 for b by one, whose votes have 5 of 45 at or below them."""
    votes = votes_of(*[("a", "b", "model_a")] * 40, *[("a", "b", "model_b")] * 5)
    judges = np.concatenate([np.arange(40), np.full(5, 99)])
    [found] = outliers(votes, judges)
    assert found.judge == 99
    assert found.evidence == pytest.approx((45 / (2 * 5)) ** 5)


def test_who_stood_first_does_not_matter() -> None:
    rows = [("a", "b", "model_a")] * 20 + [("b", "a", "model_b")] * 20
    rows += [("a", "b", "model_b")] * 3 + [("b", "a", "model_a")] * 2
    judges = np.concatenate([np.arange(40), np.full(5, 99)])
    [found] = outliers(votes_of(*rows), judges)
    assert found.evidence == pytest.approx((45 / (2 * 5)) ** 5)


def test_no_more_than_a_hundred_votes_of_a_voter_are_looked_at() -> None:
    """Evidence that comes after them is none; a voter's many fair votes before it stay fair."""
    fair = [("a", "b", "model_a"), ("a", "b", "model_b")] * 500
    theirs = [("a", "b", "model_a")] * 50 + [("a", "b", "model_b")] * 50
    odd = [("c", "d", "model_b")] * 20
    others = [("c", "d", "model_a")] * 400
    n = len(fair) + len(others)
    late = np.concatenate([np.arange(n), np.full(120, 9999)])
    assert not [o for o in outliers(votes_of(*fair, *others, *theirs, *odd), late) if o.n_votes > 9]
    early = outliers(votes_of(*fair, *others, *odd, *theirs), late)
    assert [o.judge for o in early] == [9999]
