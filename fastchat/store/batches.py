"""Batches: what is to be asked, what was answered, and which gateway is at it.

A gateway holds a batch by a lease that it renews; a gateway that dies loses it, and another
goes on where the answers end. An answer is on the disk before the next is counted.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from fastchat.store.database import Database, metadata

LEASE_S = 15.0
OPEN = ("validating", "in_progress", "finalizing", "cancelling")
"""States in which there is something to do."""
STAMPS = (
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)
LINES_AT_ONCE = 256

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("key_id", sa.String(80), nullable=True),
    sa.Column("endpoint", sa.String(80), nullable=False),
    sa.Column("input_file_id", sa.String(80), nullable=False),
    sa.Column("output_file_id", sa.String(80), nullable=True),
    sa.Column("error_file_id", sa.String(80), nullable=True),
    sa.Column("window", sa.String(20), nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("status", sa.String(20), nullable=False, index=True),
    sa.Column("errors", sa.Text, nullable=True),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("completed", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    *(sa.Column(name, sa.Double, nullable=True) for name in STAMPS),
    sa.Column("holder", sa.String(80), nullable=True),
    sa.Column("held_until", sa.Double, nullable=False),
)
batch_lines = sa.Table(
    "batch_lines",
    metadata,
    sa.Column(
        "batch_id",
        sa.String(80),
        sa.ForeignKey("batches.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("is_error", sa.Boolean, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A batch as it stands."""

    id: str
    key_id: str | None
    endpoint: str
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    window: str
    metadata: dict[str, str]
    status: str
    errors: list[dict[str, Any]]
    total: int
    completed: int
    failed: int
    created_at: float
    """Seconds since 1970, as all times here."""
    expires_at: float
    stamps: dict[str, float | None]
    """When it came into each of its states."""


class BatchStore:
    """Batches by id. Each belongs to a key, and no other key sees it."""

    def __init__(
        self,
        database: Database,
        *,
        lease_s: float = LEASE_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._lease_s = lease_s
        self._now = now
        database.create([batches, batch_lines])

    # ---- for clients

    def create(
        self,
        *,
        key_id: str | None,
        endpoint: str,
        input_file_id: str,
        window: str,
        window_s: float,
        metadata: dict[str, str],
    ) -> StoredBatch:
        """Adds a batch that is to be validated."""
        now = self._now()
        row = {
            "id": f"batch_{secrets.token_hex(16)}",
            "key_id": key_id,
            "endpoint": endpoint,
            "input_file_id": input_file_id,
            "window": window,
            "metadata": orjson.dumps(metadata).decode(),
            "status": "validating",
            "total": 0,
            "completed": 0,
            "failed": 0,
            "created_at": now,
            "expires_at": now + window_s,
            "held_until": 0.0,
        }

        def write(connection: sa.Connection) -> StoredBatch:
            connection.execute(sa.insert(batches).values(row))
            return _batch(connection.execute(_select(str(row["id"]))).one())

        return self._database.write(write)

    def get(self, batch_id: str, *, key_id: str | None) -> StoredBatch | None:
        """The batch, if there is one that this key may see."""
        statement = _select(batch_id).where(batches.c.key_id.is_not_distinct_from(key_id))
        row = self._database.read(lambda c: c.execute(statement).one_or_none())
        return None if row is None else _batch(row)

    def page(
        self, *, key_id: str | None, limit: int, after: str | None = None
    ) -> tuple[list[StoredBatch], bool]:
        """Batches of a key, the newest first, after the batch `after`; and whether there are more.

        Raises:
            KeyError: the key has no batch `after`.
        """
        wanted = [batches.c.key_id.is_not_distinct_from(key_id)]
        if after is not None:
            last = self.get(after, key_id=key_id)
            if last is None:
                raise KeyError(after)
            edge = sa.tuple_(sa.literal(last.created_at), sa.literal(last.id))
            wanted.append(sa.tuple_(batches.c.created_at, batches.c.id) < edge)
        order = (batches.c.created_at.desc(), batches.c.id.desc())
        statement = sa.select(batches).where(*wanted).order_by(*order).limit(limit + 1)
        rows = self._database.read(lambda c: c.execute(statement).all())
        return [_batch(row) for row in rows[:limit]], len(rows) > limit

    def cancel(self, batch_id: str, *, key_id: str | None) -> bool:
        """Asks that a batch be ended; false if it is not one that can be."""
        wanted = [
            batches.c.id == batch_id,
            batches.c.key_id.is_not_distinct_from(key_id),
            batches.c.status.in_(("validating", "in_progress")),
        ]
        values = {"status": "cancelling", "cancelling_at": self._now()}
        statement = sa.update(batches).where(*wanted).values(values)
        return self._database.write(lambda c: c.execute(statement).rowcount) > 0

    # ---- for the gateway that is at it

    def claim(self, holder: str) -> StoredBatch | None:
        """Takes the oldest batch that has something to do and nobody at it."""
        now = self._now()
        is_free = sa.and_(batches.c.status.in_(OPEN), batches.c.held_until <= now)
        oldest = sa.select(batches.c.id).where(is_free).order_by(batches.c.created_at).limit(1)
        if not self._database.is_sqlite:
            oldest = oldest.with_for_update(skip_locked=True)

        def write(connection: sa.Connection) -> StoredBatch | None:
            batch_id = connection.execute(oldest).scalar_one_or_none()
            if batch_id is None:
                return None
            held = {"holder": holder, "held_until": now + self._lease_s}
            connection.execute(sa.update(batches).where(batches.c.id == batch_id).values(held))
            return _batch(connection.execute(_select(batch_id)).one())

        return self._database.write(write)

    def renew(self, batch_id: str, holder: str) -> str | None:
        """Goes on holding a batch; gives its state, None where it is held no longer."""
        mine = sa.and_(batches.c.id == batch_id, batches.c.holder == holder)
        held = sa.update(batches).where(mine).values(held_until=self._now() + self._lease_s)

        def write(connection: sa.Connection) -> str | None:
            if not connection.execute(held).rowcount:
                return None
            state = sa.select(batches.c.status).where(batches.c.id == batch_id)
            return connection.execute(state).scalar_one()

        return self._database.write(write)

    def release(self, batch_id: str, holder: str) -> None:
        """Leaves a batch to others."""
        mine = sa.and_(batches.c.id == batch_id, batches.c.holder == holder)
        statement = sa.update(batches).where(mine).values(holder=None, held_until=0.0)
        self._database.write(lambda c: c.execute(statement))

    def move(
        self, batch_id: str, holder: str, *, to: str, since: tuple[str, ...], **values: Any
    ) -> bool:
        """Brings a batch from one of the states `since` to the state `to`; false if it is in
        none of them, or held by another.

        Args:
            values: more columns to set; `errors` as a list.
        """
        if "errors" in values:
            values["errors"] = orjson.dumps(values["errors"]).decode()
        stamp = {f"{to}_at": self._now()} if f"{to}_at" in STAMPS else {}
        mine = [
            batches.c.id == batch_id,
            batches.c.holder == holder,
            batches.c.status.in_(since),
        ]
        statement = sa.update(batches).where(*mine).values(status=to, **stamp, **values)
        return self._database.write(lambda c: c.execute(statement).rowcount) > 0

    def add_line(self, batch_id: str, number: int, data: bytes, *, is_error: bool) -> None:
        """Keeps the answer to one line, and counts it."""
        row = {"batch_id": batch_id, "number": number, "is_error": is_error, "data": data.decode()}
        count = batches.c.failed if is_error else batches.c.completed
        counted = sa.update(batches).where(batches.c.id == batch_id).values({count: count + 1})

        def write(connection: sa.Connection) -> None:
            connection.execute(sa.insert(batch_lines).values(row))
            connection.execute(counted)

        self._database.write(write)

    def answered(self, batch_id: str) -> set[int]:
        """Numbers of the lines that have an answer."""
        statement = sa.select(batch_lines.c.number).where(batch_lines.c.batch_id == batch_id)
        return set(self._database.read(lambda c: c.execute(statement).scalars().all()))

    def lines(self, batch_id: str, *, is_error: bool) -> Iterator[bytes]:
        """The answers of a batch in the order of its lines, good or bad ones."""
        last = -1
        while True:
            statement = (
                sa.select(batch_lines.c.number, batch_lines.c.data)
                .where(batch_lines.c.batch_id == batch_id, batch_lines.c.number > last)
                .where(batch_lines.c.is_error == is_error)
                .order_by(batch_lines.c.number)
                .limit(LINES_AT_ONCE)
            )
            rows = self._database.read(lambda c, s=statement: c.execute(s).all())
            if not rows:
                return
            last = rows[-1].number
            for row in rows:
                yield row.data.encode()

    def forget_lines(self, batch_id: str) -> None:
        """Drops the answers of a batch, which stand in its files now."""
        statement = sa.delete(batch_lines).where(batch_lines.c.batch_id == batch_id)
        self._database.write(lambda c: c.execute(statement))


def _select(batch_id: str) -> sa.Select[Any]:
    return sa.select(batches).where(batches.c.id == batch_id)


def _batch(row: Any) -> StoredBatch:
    values = row._mapping
    own = StoredBatch.__dataclass_fields__.keys() - {"metadata", "errors", "stamps"}
    return StoredBatch(
        **{name: values[name] for name in own},
        metadata=orjson.loads(values["metadata"]),
        errors=orjson.loads(values["errors"] or "[]"),
        stamps={name: values[name] for name in STAMPS},
    )
