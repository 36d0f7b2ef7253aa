"""The arena's memory, on SQLite and on a real PostgreSQL server."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from fastchat.errors import StoreError
from fastchat.store import arena_tables as tables
from fastchat.store.arena import ArenaStore
from fastchat.store.arena_records import (
    Outcome,
    StoredBattle,
    StoredConversation,
    StoredFlag,
    StoredImage,
    StoredRefusals,
    StoredShare,
    StoredVote,
)
from fastchat.store.database import Database

AT = 1_700_000_000.5


@pytest.fixture
def store(database_url: str) -> Iterator[ArenaStore]:
    database = Database(database_url)
    yield ArenaStore(database)
    database.close()


def said(key: str, model: str = "m", text: str = "hi", at: float = AT) -> StoredConversation:
    return StoredConversation(
        id=key,
        model=model,
        messages=(("user", text), ("assistant", "hello \x00 \u4e2d"), ("user", ["see", ["h"]])),
        updated_at=at,
        gen_params={"temperature": 0.7},
    )


def battle(key: str, a: str = "alpha", b: str = "beta") -> StoredBattle:
    return StoredBattle(
        id=key, kind="anonymous", a=said(f"{key}-a", a), b=said(f"{key}-b", b), started_at=AT
    )


def vote(key: str, outcome: Outcome = "leftvote", a: str = "alpha", b: str = "beta") -> StoredVote:
    return StoredVote(
        battle=battle(key, a, b), outcome=outcome, turn=1, voted_at=AT + 1, voter="v", waited_s=0.5
    )


def test_a_vote_brings_its_battle_and_conversations(store: ArenaStore) -> None:
    assert store.record([vote("1")]) == [True]
    kept = store.battle("1")
    assert kept == battle("1")
    assert store.conversation("1-a") == said("1-a", "alpha")
    assert store.battle("none") is None
    assert store.conversation("none") is None
    assert store.count()["votes"] == 1


def test_a_battle_has_one_vote(store: ArenaStore) -> None:
    assert store.record([vote("1"), vote("1", "rightvote"), vote("2")]) == [True, False, True]
    assert store.record([vote("1", "tievote")]) == [False]
    columns = store.votes()
    assert columns.battle == ("1", "2")
    assert columns.outcome.tolist() == [0, 0]


def test_the_database_itself_refuses_a_second_vote(store: ArenaStore) -> None:
    store.record([vote("1")])

    def again(c: sa.Connection) -> None:
        row = dict(c.execute(sa.select(tables.votes)).mappings().one())
        row.pop("id")
        c.execute(tables.votes.insert(), row)

    with pytest.raises(IntegrityError):
        store.database.write(again)


def test_votes_are_columns_that_fit_together(store: ArenaStore) -> None:
    store.record([vote("1", "leftvote", "b", "a"), vote("2", "rightvote", "c", "b")])
    first = store.votes()
    store.record([vote("3", "bothbad_vote", "d", "a")])
    later = store.votes(since=int(first.ids[-1]))
    assert later.models[: len(first.models)] == first.models
    both = [
        (later.models[a], later.models[b])
        for a, b in zip(later.model_a, later.model_b, strict=True)
    ]
    assert both == [("d", "a")]
    assert later.outcome.tolist() == [3]
    assert first.models[first.model_a[0]] == "b"
    assert first.anonymous.all() and first.human.all() and not first.vision.any()
    assert first.voted_at.tolist() == [AT + 1] * 2
    assert store.last_vote() == int(later.ids[-1])
    pieces = list(store.iter_battles(chunk=2))
    assert [len(piece) for piece in pieces] == [2, 1]


def test_no_votes_are_empty_columns(store: ArenaStore) -> None:
    assert len(store.votes()) == 0
    assert list(store.iter_battles()) == []
    assert store.last_vote() == 0


def test_a_conversation_grows(store: ArenaStore) -> None:
    store.record([said("c", text="one")])
    store.record([said("c", text="two", at=AT + 1), said("c", text="old", at=AT)])
    kept = store.conversation("c")
    assert kept is not None and kept.messages[0] == ("user", "two")


def test_flags_pictures_and_shares_are_kept_once(store: ArenaStore) -> None:
    flag = StoredFlag(conversation=said("c"), kind="upvote", turn=1, at=AT)
    image = StoredImage(
        hash="h", media_type="image/png", width=2, height=3, size_bytes=9, seen_at=AT
    )
    share = StoredShare(token="t", page={"title": "x"}, created_at=AT)
    for _ in range(2):
        store.record([flag, image, share])
    assert store.count() == {
        "votes": 0,
        "battles": 0,
        "conversations": 1,
        "flags": 1,
        "images": 1,
    }
    assert store.share("t") == {"title": "x"}
    assert store.share("none") is None


def test_refusals_are_counted_by_reason(store: ArenaStore) -> None:
    store.record([StoredRefusals(day="2026-01-01", reason="rate", n=5)])
    store.record([StoredRefusals(day="2026-01-01", reason="rate")] * 2)
    store.record([StoredRefusals(day="2026-01-02", reason="rate")])
    store.record([StoredRefusals(day="2026-01-02", reason="voted")])
    assert store.refused() == {"rate": 8, "voted": 1}


def test_a_secret_stays_the_same(store: ArenaStore) -> None:
    assert store.secret("voters") == store.secret("voters") != store.secret("others")
    assert len(store.secret("voters")) == 32


def test_many_writers_lose_nothing_and_count_nothing_twice(store: ArenaStore) -> None:
    new: list[bool] = []

    def write(writer: int) -> None:
        for i in range(10):
            own = vote(f"{writer}-{i}", a=f"model-{writer % 3}")
            new.extend(store.record([own, vote(f"shared-{i}")])[1:])

    threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    columns = store.votes()
    assert len(columns) == 70
    assert len(set(columns.battle)) == 70
    assert sum(new) == 10


def test_a_full_disk_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "a.db"))
    store = ArenaStore(database)
    store.record([vote("1")])
    database.close()

    def fill(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # no page more than there are

    sa.event.listen(database.engine, "connect", fill)
    with pytest.raises(StoreError, match="nothing was saved"):
        for i in range(1000):
            store.record([vote(f"more-{i}", a="x" * 5000)])
    sa.event.remove(database.engine, "connect", fill)
    database.close()
    n = len(store.votes())
    assert n >= 1
    assert store.record([vote("later")]) == [True]
    assert len(store.votes()) == n + 1
    database.close()


def test_a_file_that_is_gone_or_another_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    database = Database(str(path))
    store = ArenaStore(database)
    store.record([vote("1")])
    away = path.rename(tmp_path / "away.db")
    with pytest.raises(StoreError, match="Put it back"):
        store.record([vote("2")])
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="Put it back"):
        store.record([vote("2")])
    path.unlink()
    away.rename(path)
    assert store.record([vote("2")]) == [True]
    assert len(store.votes()) == 2
    database.close()
