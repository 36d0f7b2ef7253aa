"""What is forgotten, and what stays, on SQLite and on a real PostgreSQL server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fastchat.store import arena_tables as tables
from fastchat.store.arena import ArenaStore
from fastchat.store.arena_forget import Forgotten, forget_before, forget_people
from fastchat.store.arena_records import (
    StoredBattle,
    StoredConversation,
    StoredFlag,
    StoredImage,
    StoredShare,
    StoredVote,
)
from fastchat.store.database import Database

OLD, NEW = 1_700_000_000.0, 1_700_086_400.0
SECRET = "my telephone number is unspeakable"


@pytest.fixture
def store(database_url: str) -> Iterator[ArenaStore]:
    database = Database(database_url)
    yield ArenaStore(database)
    database.close()


def said(key: str, at: float, picture: str = "") -> StoredConversation:
    content: Any = [SECRET, [picture]] if picture else SECRET
    messages = (("user", content), ("assistant", "I see."))
    return StoredConversation(id=key, model=f"m-{key[-1]}", messages=messages, updated_at=at)


def vote(key: str, at: float, voter: str, picture: str = "") -> StoredVote:
    a, b = (said(f"{key}-{side}", at, picture) for side in "ab")
    battle = StoredBattle(id=key, kind="anonymous", a=a, b=b, started_at=at)
    return StoredVote(battle=battle, outcome="leftvote", turn=1, voted_at=at, voter=voter)


def picture(name: str, at: float) -> StoredImage:
    return StoredImage(
        hash=name, media_type="image/png", width=1, height=1, size_bytes=9, seen_at=at
    )


def share(token: str, at: float, *keys: str) -> StoredShare:
    return StoredShare(token=token, page={"sides": [], "conversations": keys}, created_at=at)


def texts(store: ArenaStore) -> dict[str, int]:
    """How many messages each conversation has."""
    query = sa.select(tables.conversations.c.id)
    keys = store.database.read(lambda c: c.execute(query).scalars().all())
    found = {key: store.conversation(key) for key in keys}
    return {key: len(c.messages) for key, c in found.items() if c}


def test_what_is_old_goes_and_what_is_new_and_every_outcome_stays(store: ArenaStore) -> None:
    store.record([vote("1", OLD, "ann", "p-old"), vote("2", NEW, "ann", "p-new")])
    store.record([picture("p-old", OLD), picture("p-new", OLD), picture("p-new", NEW)])
    store.record([share("s-old", OLD), share("s-new", NEW)])
    store.record(
        [StoredFlag(conversation=said("f-a", OLD), kind="flag", turn=1, at=OLD, voter="x")]
    )
    found = forget_before(store.database, NEW)
    assert found == Forgotten(conversations=3, votes=1, shares=1, pictures=("p-old",))
    assert texts(store) == {"1-a": 0, "1-b": 0, "2-a": 2, "2-b": 2, "f-a": 0}
    columns = store.votes()
    assert len(columns) == 2 and columns.voter == ("", "ann")
    assert columns.outcome.tolist() == [0, 0]
    assert store.share("s-old") is None and store.share("s-new") is not None
    assert store.count()["images"] == 1 and store.count()["flags"] == 1
    assert forget_before(store.database, NEW) == Forgotten(), "nothing is forgotten twice"
    assert store.record([vote("1", NEW, "bob")]) == [False], "the battle has its vote still"


def test_a_person_is_forgotten_and_nobody_else(store: ArenaStore) -> None:
    store.record([vote("1", OLD, "ann", "p-ann"), vote("2", OLD, "bob", "p-bob")])
    store.record([picture("p-ann", OLD), picture("p-bob", OLD)])
    store.record([share("s-ann", OLD, "1-a", "1-b"), share("s-bob", OLD, "2-a", "2-b")])
    store.record([said("chat-a", OLD), said("chat-b", OLD)])
    found = forget_people(store.database, voters=["ann"], keys=["chat-a", "never-was"])
    assert found == Forgotten(conversations=3, votes=1, shares=1, pictures=("p-ann",))
    assert texts(store) == {"1-a": 0, "1-b": 0, "2-a": 2, "2-b": 2, "chat-a": 0, "chat-b": 2}
    assert store.votes().voter == ("", "bob")
    assert store.share("s-ann") is None and store.share("s-bob") is not None


def test_one_conversation_brings_the_other_side_of_its_battle(store: ArenaStore) -> None:
    store.record([vote("1", OLD, "ann"), vote("2", OLD, "ann")])
    found = forget_people(store.database, keys=["1-b"])
    assert (found.conversations, found.votes) == (2, 1)
    assert texts(store) == {"1-a": 0, "1-b": 0, "2-a": 2, "2-b": 2}


def test_many_conversations_are_forgotten_at_once(store: ArenaStore) -> None:
    store.record([vote(str(i), OLD, "eager") for i in range(700)])
    found = forget_people(store.database, voters=["eager"])
    assert (found.conversations, found.votes) == (1400, 700)


def test_nothing_of_it_is_left_in_the_files(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "a.db"))
    store = ArenaStore(database)
    store.record([vote(str(i), OLD, "ann") for i in range(50)])
    assert any(SECRET.encode() in path.read_bytes() for path in tmp_path.iterdir())
    forget_people(database, voters=["ann"])
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.iterdir())
    assert len(store.votes()) == 50
    database.close()
