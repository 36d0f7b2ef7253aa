"""Boards of categories and style beside the live ones, from a store that grows."""

from collections.abc import Iterator
from typing import Any

import pytest

from fastchat.arena.categories import known_categories
from fastchat.arena.live_categories import SHORTEST_S, LiveCategories, Measured
from fastchat.errors import StoreError
from fastchat.store.arena import ArenaStore
from fastchat.store.arena_records import StoredBattle, StoredConversation, StoredVote
from fastchat.store.database import Database

T0 = 1_700_000_000.0
GERMAN = "Wie heißt die Hauptstadt von Österreich, und wie viele Menschen leben heute dort?"
ENGLISH = "Please tell me how long I should boil an egg for breakfast."


@pytest.fixture
def store(database_url: str) -> Iterator[ArenaStore]:
    database = Database(database_url)
    yield ArenaStore(database)
    database.close()


def vote(key: str, outcome: Any = "leftvote", *, asked: str = ENGLISH, **more: Any) -> StoredVote:
    """A vote on two answers, of which one has a list."""
    said = [f"It is so, {key}.", f"Here:\n\n- one {key}\n- two\n\n**Well.**"]
    said = said[::-1] if key in ("1", "2", "7") else said
    answers = dict(zip(("m-a", "m-b"), said, strict=True))
    a, b = (
        StoredConversation(
            id=f"{key}{model}",
            model=model,
            messages=(("user", asked), ("assistant", answer)),
            updated_at=T0,
        )
        for model, answer in answers.items()
    )
    kind = more.pop("kind", "anonymous")
    battle = StoredBattle(id=key, kind=kind, a=a, b=b, started_at=T0)
    return StoredVote(battle=battle, outcome=outcome, turn=1, voted_at=T0, **more)


class Clock:
    time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.mark.slow
def test_categories_and_style_follow_the_store(store: ArenaStore) -> None:
    store.record([vote(str(i), "leftvote" if i % 3 else "rightvote") for i in range(12)])
    store.record([vote("g", asked=GERMAN), vote("n", kind="named")])
    clock = Clock()
    live = LiveCategories(store, known_categories(), now=clock)
    assert live.leaderboard().first.n_votes == 13
    live.wait()
    boards = live.leaderboard().boards
    assert next(iter(boards)) == "full"
    assert boards["english"].n_votes == 12 and boards["german"].n_votes == 1
    assert boards["full_style_control"].n_votes == 13
    assert boards["full_style_control"].coefficients, "style was measured"
    assert "french" not in boards and "coding" not in boards, "nobody voted in them"
    store.record([vote("f", asked=GERMAN)])
    assert live.leaderboard().first.n_votes == 14, "the live board follows at once"
    live.wait()
    assert live.leaderboard().boards["german"].n_votes == 1, "the others serve for a while"
    clock.time += SHORTEST_S
    live.leaderboard()
    live.wait()
    assert live.leaderboard().boards["german"].n_votes == 2
    live.close()


def test_a_battle_counts_once_however_often_it_is_read(store: ArenaStore) -> None:
    measured = Measured(store)
    store.record([vote("1")])
    measured.read(lambda seconds: None)
    store.record([vote("2")])
    measured._read_upto = 0  # as if votes had come while the store was read
    measured.read(lambda seconds: None)
    assert measured.blind().height == 2


def test_one_voter_counts_so_often_a_day_and_nobody_known_without_end(store: ArenaStore) -> None:
    store.record([vote(f"a{i}", voter="eager") for i in range(5)])
    store.record([vote(f"b{i}") for i in range(4)])
    measured = Measured(store, most_a_day=2)
    measured.read(lambda seconds: None)
    assert measured.blind().height == 2 + 4


def test_no_votes_are_no_boards_and_an_end_is_an_end(store: ArenaStore) -> None:
    live = LiveCategories(store, known_categories())
    assert list(live.leaderboard().boards) == ["full", "multiturn", "no_tie"]
    live.wait()
    live.close()
    store.record([vote("1")])
    live.leaderboard()
    live.wait()
    assert "english" not in live.leaderboard().boards, "after the end nothing is begun"


def test_a_store_that_is_away_for_a_moment_costs_a_turn_only(
    store: ArenaStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.record([vote("1")])
    clock = Clock()
    live = LiveCategories(store, known_categories(), now=clock)

    def away(self: Measured, rest: object) -> None:
        raise StoreError("The store cannot be used at this moment.")

    with monkeypatch.context() as patched:
        patched.setattr(Measured, "read", away)
        live.leaderboard()
        live.wait()
    assert "stay as they are" in caplog.text
    clock.time += SHORTEST_S
    live.leaderboard()
    live.wait()
    assert live.leaderboard().boards["english"].n_votes == 1
    live.close()
