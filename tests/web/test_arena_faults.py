"""The arena while its database is locked, full or gone: the page says so, and chat goes on."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import databases
import psycopg
import pytest
from gradio_session import Session
from psycopg.sql import SQL, Identifier

from fastchat.store import database as database_module
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database
from fastchat.web.texts import load_texts

WORDS = load_texts().arena
Fault = Callable[[str], contextlib.AbstractContextManager[None]]
WRITTEN = ("arena_conversations", "arena_battles", "arena_votes", "arena_shares")


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """Somebody else holds the tables."""
    with psycopg.connect(url) as other:
        for table in WRITTEN:
            other.execute(SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(Identifier(table)))
        yield
        other.rollback()


@contextlib.contextmanager
def full(url: str) -> Iterator[None]:
    """The server answers as it does when its disk is full."""
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END$$"
        )
        made = SQL("CREATE TRIGGER full_disk BEFORE INSERT ON {} EXECUTE FUNCTION no_room()")
        for table in WRITTEN:
            other.execute(made.format(Identifier(table)))
        yield
        other.execute("DROP FUNCTION no_room CASCADE")


@contextlib.contextmanager
def gone(url: str) -> Iterator[None]:
    """The server has ended every connection, and takes no new one."""
    name = url.rsplit("/", 1)[1]
    with psycopg.connect(url.rsplit("/", 1)[0] + "/postgres", autocommit=True) as other:
        opens = SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        other.execute(opens.format(Identifier(name), SQL("false")))
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        yield
        other.execute(opens.format(Identifier(name), SQL("true")))


def check(page: str, url: str, broken: contextlib.AbstractContextManager[None], fake: Any) -> None:
    """A reader asks, is told that the vote is not saved, goes on, and votes in the end."""
    fake.models = [{"id": "lion"}, {"id": "bear"}]
    session = Session(page)
    session.battle("hello")
    with broken:
        assert WORDS.vote_not_saved in session.vote("left")
        assert WORDS.share_not_saved in session.call("anonymous_share", None)[-1][-1]
        assert "and on" in json.dumps(session.battle("and on")[-1])
        assert WORDS.vote_not_saved in session.vote("right")
    assert WORDS.thanks in session.vote("tie"), "the same round can be voted on again"
    session.close()
    database = Database(url)
    columns = ArenaStore(database).votes()
    assert columns.outcome.tolist() == [2] and columns.turn.tolist() == [2]
    database.close()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [locked, full, gone], ids=lambda fault: fault.__name__)
def test_a_postgresql_server_in_trouble(
    serve_arena: Callable[..., str],
    fake: Any,
    postgresql_server: str,
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database_module, "BUSY_S", 1)
    url = databases.new_database(postgresql_server)
    check(serve_arena(database_url=url), url, fault(url), fake)


def test_a_file_that_is_moved_away_and_back(
    serve_arena: Callable[..., str], fake: Any, tmp_path: Path
) -> None:
    path = tmp_path / "arena.db"

    @contextlib.contextmanager
    def moved() -> Iterator[None]:
        away = path.rename(tmp_path / "away.db")
        yield
        away.rename(path)

    check(serve_arena(), str(path), moved(), fake)
