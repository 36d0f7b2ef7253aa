from collections.abc import Iterator
from typing import Any

import pytest

from fastchat.store.database import Database
from fastchat.store.responses import PURGE_EVERY_S, ResponseStore


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[ResponseStore]:
    database = Database(database_url)
    yield ResponseStore(database, retention_s=100.0, now=clock)
    database.close()


def body(name: str, previous: str | None = None, status: str = "completed") -> dict[str, Any]:
    return {"id": name, "status": status, "previous_response_id": previous, "output": ["\x00é"]}


def test_a_response_is_kept_for_its_key_alone(store: ResponseStore) -> None:
    store.put(body("a"), [{"id": "i"}], key_id="k1")
    found = store.get("a", key_id="k1")
    assert found is not None
    assert (found.body, found.input) == (body("a"), [{"id": "i"}])
    for other in ("k2", None):
        assert store.get("a", key_id=other) is None
        assert not store.delete("a", key_id=other)
        assert store.chain("a", key_id=other) == []
    store.put(body("b"), [], key_id=None)
    assert store.get("b", key_id=None) is not None
    assert store.get("b", key_id="k1") is None
    assert store.delete("a", key_id="k1")
    assert store.get("a", key_id="k1") is None


def test_a_chain_is_told_from_its_start_and_only_whole(store: ResponseStore) -> None:
    for name, previous in (("a", None), ("b", "a"), ("c", "b")):
        store.put(body(name, previous), [], key_id=None)
    assert [one.id for one in store.chain("c", key_id=None)] == ["a", "b", "c"]
    store.delete("a", key_id=None)
    assert store.chain("c", key_id=None) == []


def test_what_has_expired_is_gone_and_removed_by_a_later_one(
    store: ResponseStore, clock: Clock
) -> None:
    store.put(body("a"), [], key_id=None)
    clock.now += 100
    assert store.get("a", key_id=None) is None
    clock.now += PURGE_EVERY_S
    store.put(body("b"), [], key_id=None)
    clock.now = 1050.0
    assert store.get("a", key_id=None) is None


def test_the_first_end_of_a_response_stays(store: ResponseStore) -> None:
    store.put(body("a", status="queued"), [], key_id=None)
    assert store.live_sign("a")
    assert store.finish(body("a", status="cancelled"))
    assert not store.finish(body("a", status="completed"))
    assert not store.live_sign("a")
    found = store.get("a", key_id=None)
    assert found is not None and found.status == found.body["status"] == "cancelled"
