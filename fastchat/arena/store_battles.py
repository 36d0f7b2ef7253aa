"""Battles of the platform's own store, cleaned by the same rules as a log."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from fastchat.arena.battle_files import BattleTable
from fastchat.arena.battles import Cleaner, table_of_events
from fastchat.arena.events import VOTES, Event, LoggedState
from fastchat.errors import UsageError
from fastchat.store.arena_tables import ANONYMOUS, TABLES, battles, conversations, votes
from fastchat.store.database import Database

CHUNK = 2000
"""Votes read at a time, with their texts."""


def battles_of_store(
    url: str, *, cleaner: Cleaner | None = None, no_urls: bool = False
) -> BattleTable:
    """The battles of the store at `url`; votes that judges gave are left out and counted.

    Raises:
        UsageError: the URL is of no known kind.
        StoreError: the database cannot be used now.
    """
    cleaner = cleaner or Cleaner(keep_addresses=True)
    return table_of_events(votes_of_store(url), cleaner=cleaner, no_urls=no_urls)


def votes_of_store(url: str) -> Iterator[Event]:
    """The votes of the store at `url` as events of the log, oldest first; it is closed at the end.

    Raises:
        UsageError: the URL is of no known kind, or its file is not there.
        StoreError: the database cannot be used now.
    """
    with opened_store(url) as database:
        yield from stored_votes(database)


@contextmanager
def opened_store(url: str) -> Iterator[Database]:
    """The store at `url`, closed at the end.

    Raises:
        UsageError: the URL is of no known kind, or its file is not there.
        StoreError: the database cannot be used now.
    """
    database = Database(url)
    path = database.url.database
    if database.is_sqlite and path and path != ":memory:" and not Path(path).exists():
        raise UsageError(f"{path} is not there; name the database of the web server.")
    try:
        database.create(TABLES)
        yield database
    finally:
        database.close()


def stored_votes(database: Database, *, since: int = 0) -> Iterator[Event]:
    """The votes with numbers above `since` as events of the log, oldest first."""
    a, b = conversations.alias(), conversations.alias()
    query = (
        sa.select(votes, a.c.id, a.c.model, a.c.messages, b.c.id, b.c.model, b.c.messages)
        .join(battles, battles.c.id == votes.c.battle_id)
        .join(a, a.c.id == battles.c.conversation_a)
        .join(b, b.c.id == battles.c.conversation_b)
        .order_by(votes.c.id)
        .limit(CHUNK)
    )
    while True:
        after = query.where(votes.c.id > since)
        rows = database.read(lambda c, after=after: c.execute(after).all())
        yield from map(_event, rows)
        if len(rows) < CHUNK:
            return
        since = rows[-1].id


def _event(row: Any) -> Event:
    """The vote as the log would tell it."""
    id_a, model_a, said_a, id_b, model_b, said_b = row[-6:]
    hidden = row.kind == ANONYMOUS
    return Event(
        type=VOTES[row.outcome],
        tstamp=row.voted_at,
        models=("", "") if hidden else (model_a, model_b),
        states=(_state(id_a, model_a, said_a), _state(id_b, model_b, said_b)),
        ip=row.voter,
        extra={"origin": row.origin, "battle_id": row.battle_id},
    )


def _state(key: str, model: str, messages: str) -> LoggedState:
    said = tuple((role, content) for role, content in orjson.loads(messages) if role != "system")
    return LoggedState(conv_id=key, model_name=model, messages=said)
