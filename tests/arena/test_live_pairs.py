import logging
from collections.abc import Iterator

import numpy as np
import pytest
from arena_votes import stored_vote
from voting import names, random_votes

from fastchat.arena.active import pair_chances
from fastchat.arena.counts import fold
from fastchat.arena.live_pairs import REFRESH_S, LivePairs
from fastchat.arena.votes import Votes
from fastchat.errors import StoreError
from fastchat.store.arena import ArenaStore
from fastchat.store.arena_records import VoteColumns
from fastchat.store.database import Database

N, M = 600, 5


class Source:
    """Votes of which a test says how many there are already."""

    def __init__(self, votes: Votes) -> None:
        self._votes = votes
        self.upto = 0
        self.is_broken = False
        self.human, self.anonymous, self.vision = (
            np.full(len(votes), value) for value in (True, True, False)
        )

    def votes(self, *, since: int = 0, limit: int | None = None) -> VoteColumns:
        if self.is_broken:
            raise StoreError("the database is locked.")
        end = self.upto if limit is None else min(self.upto, since + limit)
        rows = slice(since, end)
        n = end - since
        return VoteColumns(
            ids=np.arange(since + 1, end + 1),
            model_a=self._votes.a[rows],
            model_b=self._votes.b[rows],
            outcome=self._votes.outcome[rows],
            anonymous=self.anonymous[rows],
            human=self.human[rows],
            vision=self.vision[rows],
            turn=np.ones(n, np.int32),
            voted_at=np.zeros(n),
            voter=("v",) * n,
            battle=("",) * n,
            models=self._votes.models,
        )


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def source() -> Source:
    return Source(random_votes(N, M)[0])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pairs(source: Source, clock: Clock) -> Iterator[LivePairs]:
    found = LivePairs(source, now=clock)
    yield found
    found.close()


def fresh(pairs: LivePairs, clock: Clock, *, vision: bool = False) -> dict[tuple[str, str], float]:
    """The chances after the votes of now were read."""
    clock.time += REFRESH_S
    pairs.chances(names(M), vision=vision)
    pairs.wait()
    return dict(pairs.chances(names(M), vision=vision))


def chances_of(votes: Votes) -> dict[tuple[str, str], float]:
    chances = pair_chances(fold(votes))
    m, known = len(votes.models), votes.models
    return {(known[i], known[j]): chances[i, j] for i in range(m) for j in range(i + 1, m)}


@pytest.mark.parametrize("at_once", [7, 100_000])
def test_chances_follow_the_votes_as_they_come(
    source: Source,
    pairs: LivePairs,
    clock: Clock,
    at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastchat.arena.live_pairs.AT_ONCE", at_once)
    votes, _ = random_votes(N, M)
    for upto in (0, 1, 200, N):
        source.upto = upto
        wanted = chances_of(votes.take(np.arange(upto)))
        assert fresh(pairs, clock) == pytest.approx(wanted)


def test_votes_are_not_read_again_before_their_time(
    source: Source, pairs: LivePairs, clock: Clock
) -> None:
    before = fresh(pairs, clock)
    source.upto = N
    clock.time += REFRESH_S / 2
    pairs.chances(names(M), vision=False)
    pairs.wait()
    assert dict(pairs.chances(names(M), vision=False)) == before
    assert fresh(pairs, clock) != before


def test_a_model_without_votes_is_drawn_most_and_one_that_left_not_at_all(
    source: Source, pairs: LivePairs, clock: Clock
) -> None:
    source.upto = N
    fresh(pairs, clock)
    found = pairs.chances(["new", "m00", "m01", "m02"], vision=False)
    assert sum(chance for pair, chance in found.items() if "new" in pair) > 0.99
    assert {name for pair in found for name in pair} == {"new", "m00", "m01", "m02"}
    assert not pairs.chances(["m00"], vision=False)


def test_only_blind_votes_of_people_count_and_pictures_have_their_own(
    source: Source, pairs: LivePairs, clock: Clock
) -> None:
    source.upto = N
    source.human[:200] = False
    source.anonymous[200:300] = False
    source.vision[300:400] = True
    votes, _ = random_votes(N, M)
    assert fresh(pairs, clock) == pytest.approx(chances_of(votes.take(np.arange(400, N))))
    pictured = chances_of(votes.take(np.arange(300, 400)))
    assert fresh(pairs, clock, vision=True) == pytest.approx(pictured)


def test_a_store_that_fails_leaves_the_last_votes(
    source: Source, pairs: LivePairs, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    source.upto = 300
    before = fresh(pairs, clock)
    source.upto, source.is_broken = N, True
    with caplog.at_level(logging.WARNING):
        assert fresh(pairs, clock) == before
    assert "the database is locked" in caplog.text
    source.is_broken = False
    assert fresh(pairs, clock) != before


def test_a_store_of_the_arena_is_asked(database_url: str) -> None:
    database, clock = Database(database_url), Clock()
    store = ArenaStore(database)
    pairs = LivePairs(store, now=clock)
    models = ["m-a", "m-b", "m-c"]
    even = pairs.chances(models, vision=False)
    pairs.wait()
    store.record([stored_vote(str(i), "leftvote") for i in range(4)])
    clock.time += REFRESH_S
    pairs.chances(models, vision=False)
    pairs.wait()
    found = pairs.chances(models, vision=False)
    assert list(even.values()) == pytest.approx([1 / 3] * 3)
    assert found["m-a", "m-b"] < 0.1
    pairs.close()
    database.close()
