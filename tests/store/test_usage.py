"""Counted use in the store, on SQLite and PostgreSQL."""

import threading
from collections.abc import Iterator

import pytest

from fastchat.store.database import Database
from fastchat.store.usage import Place, Usage, UsageStore, day_of


@pytest.fixture
def store(database_url: str) -> Iterator[UsageStore]:
    database = Database(database_url)
    yield UsageStore(database)
    database.close()


def place(day: int = 1, key_id: str = "k", model: str = "m") -> Place:
    return Place(day=day, key_id=key_id, model=model)


ONE = Usage(requests=1, prompt_tokens=3, completion_tokens=5)


def test_amounts_add_up(store: UsageStore) -> None:
    store.add({place(): ONE, place(model="n"): ONE + ONE})
    store.add({place(): Usage(requests=1, completion_tokens=2, estimated_requests=1)})
    assert store.since(0) == [
        (place(), Usage(requests=2, prompt_tokens=3, completion_tokens=7, estimated_requests=1)),
        (place(model="n"), ONE + ONE),
    ]


def test_days_and_keys_are_kept_apart(store: UsageStore) -> None:
    store.add({place(day=1): ONE, place(day=2): ONE + ONE, place(key_id="other"): ONE})
    store.add({})
    assert store.of_day(2, ["k", "other"]) == {"k": ONE + ONE, "other": Usage()}
    assert store.of_day(1, []) == {}
    assert [p.day for p, _ in store.since(2)] == [2]
    assert [p.key_id for p, _ in store.since(0, key_id="other")] == ["other"]


def test_two_who_add_at_once_lose_nothing(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(2)]
    stores = [UsageStore(database) for database in databases]
    places = [place(model=str(i)) for i in range(5)]

    def add(store: UsageStore, order: list[Place]) -> None:
        for _ in range(20):
            store.add(dict.fromkeys(order, ONE))

    threads = [
        threading.Thread(target=add, args=(stores[0], places)),
        threading.Thread(target=add, args=(stores[1], places[::-1])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [usage.requests for _, usage in stores[0].since(0)] == [40] * 5
    for database in databases:
        database.close()


def test_a_day_begins_at_midnight_utc() -> None:
    assert day_of(0.0) == 0
    assert day_of(86399.9) == 0
    assert day_of(86400.0) == 1
