"""Conversations and thumbs of the platform's own store, as events of the log."""

from collections.abc import Iterator
from typing import Any

import orjson
import sqlalchemy as sa

from fastchat.arena.events import Event, LoggedState
from fastchat.arena.scratch import Scratch, digest
from fastchat.arena.store_battles import CHUNK, opened_store
from fastchat.store.arena_tables import battles, conversations, flags, votes
from fastchat.store.database import Database


def chats_of_store(url: str) -> Iterator[Event]:
    """Every conversation, by its id, then every thumb and flag, by its number.

    People are known where they voted or flagged; for others the address is empty. What was said
    for a judge to vote on is marked as such.

    Raises:
        UsageError: the URL is of no known kind, or its file is not there.
        StoreError: the database cannot be used now.
    """
    with opened_store(url) as database:
        with _voters(database) as voters:
            yield from _conversations(database, voters)
        yield from _flags(database)


def _conversations(database: Database, voters: Scratch) -> Iterator[Event]:
    query = sa.select(conversations).order_by(conversations.c.id)
    last = ""
    while True:
        after = query.where(conversations.c.id > last).limit(CHUNK)
        rows = database.read(lambda c, after=after: c.execute(after).all())
        for row in rows:
            kind = "error" if row.error else "chat"
            known = orjson.loads(voters.get(digest(row.id)) or "{}")
            yield _event(row, kind, row.updated_at, **known)
        if len(rows) < CHUNK:
            return
        last = rows[-1].id


def _voters(database: Database) -> Scratch:
    """Who voted on each conversation, and whether it was a judge, on the disk."""
    query = (
        sa.select(
            *(votes.c.id, votes.c.voter, votes.c.origin),
            *(battles.c.conversation_a, battles.c.conversation_b),
        )
        .join(battles, battles.c.id == votes.c.battle_id)
        .order_by(votes.c.id)
        .limit(CHUNK)
    )
    found = Scratch()
    last = 0
    while True:
        after = query.where(votes.c.id > last)
        rows = database.read(lambda c, after=after: c.execute(after).all())
        for _, voter, origin, *both in rows:
            for conversation in both:
                known = orjson.dumps({"voter": voter, "origin": origin})
                found.put(digest(conversation), known)
        if len(rows) < CHUNK:
            return found
        last = rows[-1].id


def _flags(database: Database) -> Iterator[Event]:
    query = (
        sa.select(
            conversations, flags.c.id.label("number"), flags.c.kind, flags.c.at, flags.c.voter
        )
        .join(flags, flags.c.conversation_id == conversations.c.id)
        .where(flags.c.kind != "share")
        .order_by(flags.c.id)
        .limit(CHUNK)
    )
    last = 0
    while True:
        after = query.where(flags.c.id > last)
        rows = database.read(lambda c, after=after: c.execute(after).all())
        for row in rows:
            yield _event(row, row.kind, row.at, voter=row.voter)
        if len(rows) < CHUNK:
            return
        last = rows[-1].number


def _event(row: Any, kind: Any, at: float, *, voter: str = "", origin: str = "human") -> Event:
    said = tuple((r, content) for r, content in orjson.loads(row.messages) if r != "system")
    state = LoggedState(conv_id=row.id, model_name=row.model, messages=said)
    return Event(
        type=kind,
        tstamp=at,
        models=(row.model,),
        states=(state,),
        ip=voter,
        finish=at if kind == "chat" else None,
        extra={"origin": origin},
    )
