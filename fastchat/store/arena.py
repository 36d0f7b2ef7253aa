"""The arena's memory: conversations, battles, one vote for each, flags, pictures, shared pages.

What people did arrives as records, many at a time, and is written in one transaction. A vote
carries its battle and both conversations with it, so that it never depends on an earlier write.
The ratings read votes as columns of whole numbers, from any vote on.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from fastchat.errors import StoreError
from fastchat.store.arena_records import (
    Record,
    StoredBattle,
    StoredConversation,
    StoredFlag,
    StoredImage,
    StoredRefusals,
    StoredShare,
    StoredVote,
    VoteColumns,
)
from fastchat.store.arena_tables import (
    ANONYMOUS,
    ORIGINS,
    OUTCOMES,
    TABLES,
    battles,
    conversations,
    flags,
    images,
    models,
    names,
    refusals,
    shares,
    votes,
)
from fastchat.store.database import Database

VOTE_LOCK = 0x566F7465
"""On PostgreSQL votes are committed one group after the other: a reader who has seen a vote's
number has then seen every lower one."""
CHUNK = 50_000
"""Votes read at a time."""


class ArenaStore:
    """The questions asked of the arena's tables."""

    def __init__(self, database: Database) -> None:
        """Creates the tables that are missing.

        Raises:
            StoreError: the database cannot be used now.
        """
        self.database = database
        database.create(TABLES)
        self._file = self._file_now()

    def record(self, records: Sequence[Record]) -> list[bool]:
        """Writes all of `records` in one transaction; they are on the disk when this returns.

        Returns for each whether it is new: False for a second vote on a battle.

        Raises:
            StoreError: the database is locked, full or gone; nothing was written.
        """
        self._check_file()
        new = self.database.write(lambda connection: _Writer(connection).write(records))
        self._check_file()
        return new

    def _check_file(self) -> None:
        """
        Raises:
            StoreError: the SQLite file was removed or replaced: what is written goes nowhere, and
                SQLite itself does not notice.
        """
        if self._file_now() != self._file:
            raise StoreError(
                "The file of the store is not the one that was opened; nothing was saved. "
                "Put it back, or start the server again."
            )

    def _file_now(self) -> tuple[int, int] | None:
        """What tells the SQLite file from another of its name; None where there is none."""
        if not self.database.is_sqlite:
            return None
        try:
            found = os.stat(str(self.database.url.database))
        except OSError:
            return (0, 0)
        return found.st_dev, found.st_ino

    def votes(self, *, since: int = 0, limit: int | None = None) -> VoteColumns:
        """The votes with numbers above `since`, oldest first."""

        def body(c: sa.Connection) -> VoteColumns:
            query = sa.select(*_COLUMNS).where(votes.c.id > since).order_by(votes.c.id)
            rows = c.execute(query.limit(limit)).all()
            known = c.execute(sa.select(models.c.name).order_by(models.c.id)).scalars().all()
            return _columns(rows, tuple(known))

        return self.database.read(body)

    def iter_battles(self, *, since: int = 0, chunk: int = CHUNK) -> Iterator[VoteColumns]:
        """`votes` in pieces of at most `chunk`, in constant memory."""
        while len(columns := self.votes(since=since, limit=chunk)):
            yield columns
            since = int(columns.ids[-1])

    def count(self) -> dict[str, int]:
        """How many votes, battles, conversations, flags and pictures there are."""

        def body(c: sa.Connection) -> dict[str, int]:
            tables = (votes, battles, conversations, flags, images)
            return {
                t.name.removeprefix("arena_"): c.execute(
                    sa.select(sa.func.count()).select_from(t)
                ).scalar_one()
                for t in tables
            }

        return self.database.read(body)

    def last_vote(self) -> int:
        """The number of the newest vote; 0 when there is none."""
        query = sa.select(sa.func.coalesce(sa.func.max(votes.c.id), 0))
        return self.database.read(lambda c: c.execute(query).scalar_one())

    def refused(self) -> dict[str, int]:
        """Refused votes by reason."""
        query = sa.select(refusals.c.reason, sa.func.sum(refusals.c.n)).group_by(refusals.c.reason)
        return self.database.read(lambda c: {str(r): int(n) for r, n in c.execute(query)})

    def battle(self, battle_id: str) -> StoredBattle | None:
        """A battle with its conversations."""

        def body(c: sa.Connection) -> StoredBattle | None:
            row = c.execute(sa.select(battles).where(battles.c.id == battle_id)).one_or_none()
            if row is None:
                return None
            a, b = (_conversation(c, key) for key in (row.conversation_a, row.conversation_b))
            return StoredBattle(
                id=row.id,
                kind=row.kind,
                a=a,
                b=b,
                started_at=row.started_at,
                vision=row.vision,
                origin=row.origin,
            )

        return self.database.read(body)

    def conversation(self, conversation_id: str) -> StoredConversation | None:
        """A conversation."""

        def body(c: sa.Connection) -> StoredConversation | None:
            query = sa.select(conversations).where(conversations.c.id == conversation_id)
            row = c.execute(query).one_or_none()
            return None if row is None else _conversation_of(row)

        return self.database.read(body)

    def share(self, token: str) -> dict[str, Any] | None:
        """The page that was shared under `token`."""
        query = sa.select(shares.c.page).where(shares.c.token == token)
        text = self.database.read(lambda c: c.execute(query).scalar_one_or_none())
        return None if text is None else orjson.loads(text)

    def secret(self, name: str) -> bytes:
        """32 random bytes kept under `name`, made at the first call: the key of hashes that must
        stay the same after a restart."""

        def body(c: sa.Connection) -> bytes:
            fresh = {"name": name, "value": secrets.token_hex(32)}
            _insert_new(c, names, [fresh], ["name"])
            query = sa.select(names.c.value).where(names.c.name == name)
            return bytes.fromhex(c.execute(query).scalar_one())

        return self.database.write(body)


_COLUMNS = [
    votes.c.id,
    votes.c.model_a,
    votes.c.model_b,
    votes.c.outcome,
    votes.c.kind,
    votes.c.origin,
    votes.c.vision,
    votes.c.turn,
    votes.c.voted_at,
    votes.c.voter,
    votes.c.battle_id,
]


class _Writer:
    """One transaction's worth of records."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection

    def write(self, records: Sequence[Record]) -> list[bool]:
        """Whether each was new."""
        voted = [r for r in records if isinstance(r, StoredVote)]
        fought = [r.battle if isinstance(r, StoredVote) else r for r in records]
        fought = [r for r in fought if isinstance(r, StoredBattle)]
        said = [c for battle in fought for c in (battle.a, battle.b)]
        said += [r for r in records if isinstance(r, StoredConversation)]
        said += [r.conversation for r in records if isinstance(r, StoredFlag)]
        self._conversations(said)
        self._battles(fought)
        fresh = self._votes(voted)
        self._flags([r for r in records if isinstance(r, StoredFlag)])
        self._images([r for r in records if isinstance(r, StoredImage)])
        self._shares([r for r in records if isinstance(r, StoredShare)])
        self._refusals([r for r in records if isinstance(r, StoredRefusals)])
        return [not isinstance(r, StoredVote) or id(r) in fresh for r in records]

    def _conversations(self, said: Sequence[StoredConversation]) -> None:
        newest: dict[str, StoredConversation] = {}
        for c in said:
            if c.id not in newest or c.updated_at >= newest[c.id].updated_at:
                newest[c.id] = c
        rows = [
            {
                "id": c.id,
                "model": c.model,
                "messages": orjson.dumps(c.messages).decode(),
                "gen_params": orjson.dumps(dict(c.gen_params)).decode(),
                "error": c.error,
                "updated_at": c.updated_at,
            }
            for c in newest.values()
        ]
        _upsert(self.connection, conversations, rows, ["id"])

    def _battles(self, fought: Sequence[StoredBattle]) -> None:
        rows = {
            b.id: {
                "id": b.id,
                "kind": b.kind,
                "conversation_a": b.a.id,
                "conversation_b": b.b.id,
                "vision": b.vision,
                "origin": b.origin,
                "started_at": b.started_at,
            }
            for b in fought
        }
        _insert_new(self.connection, battles, list(rows.values()), ["id"])

    def _votes(self, voted: Sequence[StoredVote]) -> set[int]:
        """Writes the first vote on each battle; gives the identities of those that are new."""
        if not voted:
            return set()
        if self.connection.dialect.name == "postgresql":
            self.connection.execute(sa.select(sa.func.pg_advisory_xact_lock(VOTE_LOCK)))
        first: dict[str, StoredVote] = {}
        for vote in voted:
            first.setdefault(vote.battle.id, vote)
        query = sa.select(votes.c.battle_id).where(votes.c.battle_id.in_(list(first)))
        for taken in self.connection.execute(query).scalars():
            del first[taken]
        codes = self._codes(
            {m for v in first.values() for m in (v.battle.a.model, v.battle.b.model)}
        )
        rows = [
            {
                "battle_id": v.battle.id,
                "model_a": codes[v.battle.a.model],
                "model_b": codes[v.battle.b.model],
                "outcome": OUTCOMES.index(v.outcome),
                "kind": v.battle.kind,
                "origin": v.battle.origin,
                "vision": v.battle.vision,
                "turn": v.turn,
                "voted_at": v.voted_at,
                "voter": v.voter,
                "waited_s": v.waited_s,
            }
            for v in first.values()
        ]
        if rows:
            self.connection.execute(votes.insert(), rows)
        return {id(vote) for vote in first.values()}

    def _codes(self, wanted: set[str]) -> dict[str, int]:
        """The number of each model, counted from 1 without gaps."""
        query = sa.select(models.c.name, models.c.id).where(models.c.name.in_(wanted))
        codes = {str(name): int(code) for name, code in self.connection.execute(query)}
        if new := sorted(wanted - codes.keys()):
            last = self.connection.execute(sa.select(sa.func.max(models.c.id))).scalar() or 0
            rows = [{"id": last + i, "name": name} for i, name in enumerate(new, 1)]
            self.connection.execute(models.insert(), rows)
            codes |= {row["name"]: row["id"] for row in rows}
        return codes

    def _flags(self, given: Sequence[StoredFlag]) -> None:
        rows = [
            {
                "conversation_id": f.conversation.id,
                "turn": f.turn,
                "kind": f.kind,
                "at": f.at,
                "voter": f.voter,
            }
            for f in given
        ]
        _insert_new(self.connection, flags, rows, ["conversation_id", "turn", "kind"])

    def _images(self, seen: Sequence[StoredImage]) -> None:
        rows = {
            i.hash: {
                "hash": i.hash,
                "media_type": i.media_type,
                "width": i.width,
                "height": i.height,
                "size_bytes": i.size_bytes,
                "seen_at": i.seen_at,
            }
            for i in seen
        }
        _upsert(self.connection, images, list(rows.values()), ["hash"])  # seen again is kept again

    def _shares(self, shared: Sequence[StoredShare]) -> None:
        rows = [
            {
                "token": s.token,
                "page": orjson.dumps(dict(s.page)).decode(),
                "created_at": s.created_at,
            }
            for s in shared
        ]
        _insert_new(self.connection, shares, rows, ["token"])

    def _refusals(self, refused: Sequence[StoredRefusals]) -> None:
        for r in refused:
            row = {"day": r.day, "reason": r.reason, "n": r.n}
            statement = _insert(self.connection, refusals).values(row)
            more = {"n": refusals.c.n + statement.excluded.n}
            self.connection.execute(
                statement.on_conflict_do_update(index_elements=["day", "reason"], set_=more)
            )


def _insert(c: sa.Connection, table: sa.Table) -> sqlite.Insert:
    """An insert that knows what to do about a conflict; both dialects say it alike."""
    kind = postgresql.insert if c.dialect.name == "postgresql" else sqlite.insert
    return cast(sqlite.Insert, kind(table))


def _insert_new(
    c: sa.Connection, table: sa.Table, rows: list[dict[str, Any]], key: list[str]
) -> None:
    """Adds the rows whose key is not there yet."""
    if rows:
        c.execute(_insert(c, table).on_conflict_do_nothing(index_elements=key), rows)


def _upsert(c: sa.Connection, table: sa.Table, rows: list[dict[str, Any]], key: list[str]) -> None:
    """Adds the rows, or replaces those of the same key."""
    if rows:
        statement = _insert(c, table)
        values = {name: statement.excluded[name] for name in rows[0] if name not in key}
        c.execute(statement.on_conflict_do_update(index_elements=key, set_=values), rows)


def _columns(rows: Sequence[Any], known: tuple[str, ...]) -> VoteColumns:
    ids, a, b, outcome, kind, origin, vision, turn, at, voter, battle = (
        zip(*rows, strict=True) if rows else ((),) * len(_COLUMNS)
    )
    return VoteColumns(
        ids=np.array(ids, np.int64),
        model_a=np.array(a, np.int32) - 1,
        model_b=np.array(b, np.int32) - 1,
        outcome=np.array(outcome, np.int8),
        anonymous=np.array([k == ANONYMOUS for k in kind], np.bool_),
        human=np.array([o == ORIGINS[0] for o in origin], np.bool_),
        vision=np.array(vision, np.bool_),
        turn=np.array(turn, np.int32),
        voted_at=np.array(at, np.float64),
        voter=tuple(voter),
        battle=tuple(battle),
        models=known,
    )


def _conversation(c: sa.Connection, key: str) -> StoredConversation:
    query = sa.select(conversations).where(conversations.c.id == key)
    return _conversation_of(c.execute(query).one())


def _conversation_of(row: Any) -> StoredConversation:
    return StoredConversation(
        id=row.id,
        model=row.model,
        messages=tuple((role, content) for role, content in orjson.loads(row.messages)),
        updated_at=row.updated_at,
        gen_params=orjson.loads(row.gen_params),
        error=row.error,
    )
