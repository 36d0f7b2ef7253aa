"""API keys in the store, on SQLite and PostgreSQL."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from fastchat.errors import NotFoundError, UsageError
from fastchat.store.database import Database
from fastchat.store.keys import KEYS, ApiKey, KeyStore, Limits, digest_of

NOW = 1_700_000_000.0


@pytest.fixture
def store(database_url: str) -> Iterator[KeyStore]:
    database = Database(database_url)
    yield KeyStore(database)
    database.close()


def test_a_key_is_found_by_its_digest_as_it_was_made(store: KeyStore) -> None:
    limits = Limits(requests_per_minute=3, tokens_per_minute=4, requests_per_day=5)
    key, text = store.create(
        "a team", now=NOW, models=["vicuna-*", "m"], limits=limits, expires_at=NOW + 9.5
    )
    assert store.with_digest(digest_of(text.encode())) == key
    assert key.limits == limits and key.models == ("vicuna-*", "m")
    assert text.startswith(key.prefix) and len(text) > 40
    assert store.with_digest(digest_of(b"another")) is None


def test_nothing_stored_gives_the_key_away(database_url: str) -> None:
    database = Database(database_url)
    key, text = KeyStore(database).create("x", now=NOW)
    (row,) = database.read(lambda c: c.execute(sa.select(KEYS)).all())
    assert text not in str(row)
    assert len(key.prefix) < 10
    database.close()


def test_keys_are_listed_found_and_changed(store: KeyStore) -> None:
    one, _ = store.create("one", now=NOW)
    two, _ = store.create("two", now=NOW + 1)
    assert [key.id for key in store.all()] == [one.id, two.id]
    for reference in (two.id, two.prefix, "two"):
        assert store.find(reference) == two
    changed = dataclasses.replace(two, revoked_at=NOW + 2, limits=Limits(tokens_per_day=7))
    store.change(changed)
    assert store.with_ids([two.id, "none"]) == [changed]
    assert store.find("one") == one


def test_what_is_not_there_or_not_clear_is_told(store: KeyStore) -> None:
    one, _ = store.create("same", now=NOW)
    two, _ = store.create("same", now=NOW)
    with pytest.raises(UsageError, match=one.id):
        store.find("same")
    with pytest.raises(NotFoundError, match="nobody"):
        store.find("nobody")
    with pytest.raises(NotFoundError):
        store.change(dataclasses.replace(two, id="key_gone"))


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201])
def test_a_name_that_cannot_be_shown_is_refused(store: KeyStore, name: str) -> None:
    with pytest.raises(UsageError):
        store.create(name, now=NOW)
    assert store.all() == []


@pytest.mark.parametrize("value", [-1, 10**16])
def test_an_impossible_limit_is_refused_by_its_flag(store: KeyStore, value: int) -> None:
    with pytest.raises(UsageError, match="--tokens-per-day"):
        store.create("x", now=NOW, limits=Limits(tokens_per_day=value))


def test_a_key_is_valid_until_it_expires_or_is_revoked() -> None:
    key = ApiKey(id="k", prefix="fc-abc", name="x", created_at=NOW, expires_at=NOW + 10)
    assert key.is_valid(NOW + 9.9)
    assert not key.is_valid(NOW + 10)
    assert not dataclasses.replace(key, expires_at=None, revoked_at=NOW).is_valid(NOW)


@pytest.mark.parametrize(
    ("model", "may"),
    [
        ("vicuna-7b", True),
        ("m", True),
        ("M", False),
        ("m ", False),
        ("Vicuna-7b", False),
        ("m-lora", False),
        ("other", False),
    ],
)
def test_patterns_allow_exactly_what_they_say(model: str, may: bool) -> None:
    key = ApiKey(id="k", prefix="p", name="x", created_at=NOW, models=("vicuna-*", "m"))
    assert key.allows(model) == may
    assert dataclasses.replace(key, models=()).allows(model)


WRITER = """
import sys
from fastchat.store.database import Database
from fastchat.store.keys import KeyStore
store = KeyStore(Database(sys.argv[1]))
for i in range(100000):
    print(store.create(str(i), now=float(i))[1], flush=True)
"""


@pytest.mark.slow
def test_every_key_that_was_told_survives_a_kill(database_url: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, database_url], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline().strip() for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read()
    told += rest[: rest.rfind("\n") + 1].split()
    database = Database(database_url)
    store = KeyStore(database)
    assert all(store.with_digest(digest_of(text.encode())) for text in told)
    database.close()
