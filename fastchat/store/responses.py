"""Responses that clients may ask for again, or go on from, for a limited time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from fastchat.protocol.responses_replies import LIVE
from fastchat.store.database import Database, metadata

RETENTION_S = 30 * 86400.0
PURGE_EVERY_S = 600.0
MAX_CHAIN = 1000

responses = sa.Table(
    "responses",
    metadata,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("key_id", sa.String(80), nullable=True),
    sa.Column("previous_id", sa.String(256), nullable=True),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False, index=True),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("input", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """A response with the input of its own request."""

    id: str
    previous_id: str | None
    status: str
    updated_at: float
    """Seconds since 1970; while it is made, the last sign of life of who makes it."""
    body: dict[str, Any]
    input: list[dict[str, Any]]


class ResponseStore:
    """Stored responses. Each belongs to a key, and no other key sees it.

    Args:
        retention_s: how long a response is kept.
    """

    def __init__(
        self,
        database: Database,
        *,
        retention_s: float = RETENTION_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._retention_s = retention_s
        self._now = now
        self._purged_at = 0.0
        database.create([responses])

    def put(self, body: dict[str, Any], items: list[dict[str, Any]], *, key_id: str | None) -> None:
        """Keeps a response and its input items."""
        now = self._now()
        row = {
            "id": body["id"],
            "key_id": key_id,
            "previous_id": body.get("previous_response_id"),
            "status": body["status"],
            "created_at": now,
            "updated_at": now,
            "expires_at": now + self._retention_s,
            "body": orjson.dumps(body).decode(),
            "input": orjson.dumps(items).decode(),
        }
        purges = now - self._purged_at >= PURGE_EVERY_S

        def write(connection: sa.Connection) -> None:
            if purges:
                connection.execute(sa.delete(responses).where(responses.c.expires_at <= now))
            connection.execute(sa.insert(responses).values(row))

        self._database.write(write)
        if purges:
            self._purged_at = now

    def get(self, response_id: str, *, key_id: str | None) -> StoredResponse | None:
        """The response, if there is one that this key may see."""

        def read(connection: sa.Connection) -> StoredResponse | None:
            return self._one(connection, response_id, key_id)

        return self._database.read(read)

    def chain(self, response_id: str, *, key_id: str | None) -> list[StoredResponse]:
        """The response and those that it continues, the first of them first.

        Empty when one of them is not there (any more), or there are more than `MAX_CHAIN`.
        """

        def read(connection: sa.Connection) -> list[StoredResponse]:
            found: list[StoredResponse] = []
            wanted: str | None = response_id
            while wanted is not None:
                one = self._one(connection, wanted, key_id)
                if one is None or len(found) >= MAX_CHAIN:
                    return []
                found.append(one)
                wanted = one.previous_id
            return found[::-1]

        return self._database.read(read)

    def finish(self, body: dict[str, Any]) -> bool:
        """Gives a response that is being made its end; false if it has one already."""
        values = {
            "status": body["status"],
            "updated_at": self._now(),
            "body": orjson.dumps(body).decode(),
        }
        is_live = sa.and_(responses.c.id == body["id"], responses.c.status.in_(LIVE))
        statement = sa.update(responses).where(is_live).values(values)
        return self._database.write(lambda c: c.execute(statement).rowcount) > 0

    def live_sign(self, response_id: str) -> bool:
        """Notes that a response is still being made; false if it has been ended."""
        is_live = sa.and_(responses.c.id == response_id, responses.c.status.in_(LIVE))
        statement = sa.update(responses).where(is_live).values(updated_at=self._now())
        return self._database.write(lambda c: c.execute(statement).rowcount) > 0

    def delete(self, response_id: str, *, key_id: str | None) -> bool:
        """Forgets a response; false if this key sees none."""
        statement = sa.delete(responses).where(_seen(response_id, key_id))
        return self._database.write(lambda c: c.execute(statement).rowcount) > 0

    def _one(
        self, connection: sa.Connection, response_id: str, key_id: str | None
    ) -> StoredResponse | None:
        wanted = _seen(response_id, key_id) & (responses.c.expires_at > self._now())
        row = connection.execute(sa.select(responses).where(wanted)).one_or_none()
        if row is None:
            return None
        return StoredResponse(
            id=row.id,
            previous_id=row.previous_id,
            status=row.status,
            updated_at=row.updated_at,
            body=orjson.loads(row.body),
            input=orjson.loads(row.input),
        )


def _seen(response_id: str, key_id: str | None) -> sa.ColumnElement[bool]:
    """This response, if it belongs to this key."""
    return sa.and_(responses.c.id == response_id, responses.c.key_id.is_not_distinct_from(key_id))
