"""Transactions of the store, on SQLite and on a real PostgreSQL server."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from fastchat.errors import StoreError, UsageError
from fastchat.store import database
from fastchat.store.database import Database

words = sa.Table(
    "test_words",
    sa.MetaData(),
    sa.Column("word", sa.String, primary_key=True),
)


@pytest.fixture
def opened(database_url: str) -> Iterator[Database]:
    store = Database(database_url)
    store.write(lambda connection: words.metadata.create_all(connection))
    yield store
    store.close()


def held(store: Database) -> list[str]:
    return sorted(store.read(lambda c: c.execute(sa.select(words.c.word)).scalars().all()))


def test_what_was_written_is_read(opened: Database) -> None:
    opened.write(lambda c: c.execute(words.insert(), [{"word": "a"}, {"word": "b"}]))
    assert held(opened) == ["a", "b"]


def test_a_failure_writes_nothing(opened: Database) -> None:
    def body(connection: sa.Connection) -> None:
        connection.execute(words.insert(), {"word": "a"})
        raise KeyError("the body's own mistake")

    with pytest.raises(KeyError):
        opened.write(body)
    assert held(opened) == []


def test_a_refused_constraint_is_the_callers_to_explain(opened: Database) -> None:
    opened.write(lambda c: c.execute(words.insert(), {"word": "a"}))
    with pytest.raises(IntegrityError):
        opened.write(lambda c: c.execute(words.insert(), {"word": "a"}))
    assert held(opened) == ["a"]


def test_a_text_that_cannot_be_stored_is_the_clients_fault(opened: Database) -> None:
    statement = sa.select(words.c.word).where(words.c.word == "a\0b")
    if opened.is_sqlite:
        assert opened.read(lambda c: c.execute(statement).all()) == []
        return
    with pytest.raises(UsageError, match="cannot be stored"):
        opened.read(lambda c: c.execute(statement).all())


def test_threads_lose_nothing(opened: Database) -> None:
    def add(thread: int) -> None:
        for i in range(20):
            word = {"word": f"{thread:02}-{i:02}"}
            opened.write(lambda c, word=word: c.execute(words.insert(), word))

    threads = [threading.Thread(target=add, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held(opened)) == 160


def test_tables_are_created_once_by_many(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "metadata", words.metadata)
    stores = [Database(database_url) for _ in range(16)]
    threads = [threading.Thread(target=store.create, args=([words],)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(stores[0]) == []
    for store in stores:
        store.close()


def test_a_locked_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0)
    path = tmp_path / "store.db"
    store = Database(str(path))
    store.write(lambda c: words.metadata.create_all(c))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="nothing was saved"):
        store.write(lambda c: c.execute(words.insert(), {"word": "a"}))
    assert held(store) == []
    other.execute("ROLLBACK")
    other.close()
    store.write(lambda c: c.execute(words.insert(), {"word": "a"}))
    assert held(store) == ["a"]
    store.close()


def test_who_waits_behind_a_stuck_writer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "TURN_S", 0)
    store = Database(str(tmp_path / "store.db"))
    store.write(lambda c: words.metadata.create_all(c))

    def body(connection: sa.Connection) -> None:
        with pytest.raises(StoreError, match="nothing was saved"):
            store.write(lambda c: c.execute(words.insert(), {"word": "second"}))
        connection.execute(words.insert(), {"word": "first"})

    store.write(body)
    assert held(store) == ["first"]
    store.write(lambda c: c.execute(words.insert(), {"word": "third"}))
    assert held(store) == ["first", "third"]
    store.close()


def test_a_server_that_is_gone_is_told() -> None:
    store = Database("postgresql://nobody:secret@127.0.0.1:1/none")
    with pytest.raises(StoreError) as caught:
        store.read(lambda c: c.execute(sa.select(sa.literal(1))))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("url", ["mysql://h/x", "sqlite://", "://", "nothing://x"])
def test_other_databases_are_refused_by_name(url: str) -> None:
    with pytest.raises(UsageError, match=r"fastchat\.db"):
        Database(url)


def test_a_folder_that_cannot_be_made_is_told() -> None:
    with pytest.raises(UsageError, match="cannot be a database"):
        Database("/dev/null/folder/store.db")


def test_the_url_keeps_its_password_out_of_the_message() -> None:
    with pytest.raises(UsageError) as caught:
        Database("no such://user:secret@host/name")
    assert "secret" not in caught.value.message


WRITER = """
import sys, sqlalchemy as sa
from fastchat.store.database import Database
table = sa.Table("test_words", sa.MetaData(), sa.Column("word", sa.String, primary_key=True))
store = Database(sys.argv[1])
store.write(lambda c: table.metadata.create_all(c))
for i in range(1000000):
    store.write(lambda c: c.execute(table.insert(), {"word": str(i)}))
    print(i, flush=True)
"""


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_kill(database_url: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, database_url], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(50)]
        os.kill(writer.pid, signal.SIGKILL)
        told += [int(line) for line in writer.stdout]
    store = Database(database_url)
    assert {str(i) for i in told} <= set(held(store))
    store.close()
