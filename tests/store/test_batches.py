from collections.abc import Iterator

import pytest

from fastchat.store.batches import BatchStore, StoredBatch
from fastchat.store.database import Database


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[BatchStore]:
    database = Database(database_url)
    yield BatchStore(database, lease_s=10.0, now=clock)
    database.close()


def new(store: BatchStore, key_id: str | None = "k1") -> StoredBatch:
    return store.create(
        key_id=key_id,
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        window="24h",
        window_s=50.0,
        metadata={"a": "b"},
    )


def test_a_batch_is_seen_by_its_key_alone(store: BatchStore, clock: Clock) -> None:
    first = new(store)
    clock.now += 1
    second = new(store)
    assert store.get(first.id, key_id="k1") == first
    assert (first.status, first.expires_at, first.metadata) == ("validating", 1050.0, {"a": "b"})
    assert store.page(key_id="k1", limit=1) == ([second], True)
    assert store.page(key_id="k1", limit=1, after=second.id) == ([first], False)
    for other in ("k2", None):
        assert store.get(first.id, key_id=other) is None
        assert not store.cancel(first.id, key_id=other)
        assert store.page(key_id=other, limit=1) == ([], False)


def test_one_gateway_holds_a_batch_until_it_falls_silent(store: BatchStore, clock: Clock) -> None:
    batch = new(store)
    claimed = store.claim("g1")
    assert claimed is not None and claimed.id == batch.id
    assert store.claim("g2") is None
    clock.now += 9
    assert store.renew(batch.id, "g1") == "validating"
    clock.now += 9
    assert store.claim("g2") is None
    clock.now += 2
    assert store.claim("g2") is not None
    assert store.renew(batch.id, "g1") is None
    assert not store.move(batch.id, "g1", to="in_progress", since=("validating",))
    store.release(batch.id, "g2")
    assert store.claim("g1") is not None


def test_answers_are_counted_once_and_told_in_order(store: BatchStore) -> None:
    batch = new(store)
    store.claim("g")
    assert store.move(batch.id, "g", to="in_progress", since=("validating",), total=3)
    store.add_line(batch.id, 2, b'{"n":2}', is_error=False)
    store.add_line(batch.id, 0, b'{"n":0}', is_error=False)
    store.add_line(batch.id, 1, b'{"n":1}', is_error=True)
    found = store.get(batch.id, key_id="k1")
    assert found is not None
    assert (found.total, found.completed, found.failed) == (3, 2, 1)
    assert found.stamps["in_progress_at"] == 1000.0
    assert store.answered(batch.id) == {0, 1, 2}
    assert list(store.lines(batch.id, is_error=False)) == [b'{"n":0}', b'{"n":2}']
    assert list(store.lines(batch.id, is_error=True)) == [b'{"n":1}']
    store.forget_lines(batch.id)
    assert store.answered(batch.id) == set()


def test_what_has_ended_is_not_cancelled_and_not_claimed(store: BatchStore) -> None:
    batch = new(store)
    store.claim("g")
    assert store.move(batch.id, "g", to="failed", since=("validating",), errors=[{"code": "x"}])
    store.release(batch.id, "g")
    assert store.claim("g") is None
    assert not store.cancel(batch.id, key_id="k1")
    found = store.get(batch.id, key_id="k1")
    assert found is not None and found.errors == [{"code": "x"}]
    assert found.stamps["failed_at"] == 1000.0
