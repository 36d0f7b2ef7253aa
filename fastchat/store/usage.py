"""What was used: requests and tokens by UTC day, key and model."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from fastchat.store.database import Database, metadata

DAY_S = 86400

USAGE = sa.Table(
    "api_usage",
    metadata,
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("key_id", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(256), primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("estimated_requests", sa.BigInteger, nullable=False),
)
_COUNTS = ("requests", "prompt_tokens", "completion_tokens", "estimated_requests")


def day_of(now: float) -> int:
    """The number of the UTC day at `now`, in UTC seconds; day 0 is 1 January 1970."""
    return int(now // DAY_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """An amount of use."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_requests: int = 0
    """Those among the requests whose tokens no endpoint reported."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in _COUNTS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where use is counted."""

    day: int
    key_id: str
    model: str


class UsageStore:
    """The counts in a database, to which several processes add."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create([USAGE])

    def add(self, amounts: Mapping[Place, Usage]) -> None:
        """Adds every amount, all or none."""
        # In one order everywhere, so that two gateways never wait for each other's rows.
        places = sorted(amounts, key=lambda p: (p.day, p.key_id, p.model))
        rows = [_identity(place) | _counts(amounts[place]) for place in places]
        if not rows:
            return
        insert = sqlite.insert if self._database.is_sqlite else postgresql.insert
        statement = insert(USAGE)
        statement = statement.on_conflict_do_update(
            index_elements=[USAGE.c.day, USAGE.c.key_id, USAGE.c.model],
            set_={name: USAGE.c[name] + statement.excluded[name] for name in _COUNTS},
        )
        self._database.write(lambda c: c.execute(statement, rows))

    def of_day(self, day: int, key_ids: Collection[str]) -> dict[str, Usage]:
        """What each of these keys used on that day, over all models."""
        sums = [sa.func.sum(USAGE.c[name]).label(name) for name in _COUNTS]
        ids = list(key_ids)
        result = {key_id: Usage() for key_id in ids}
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            statement = (
                sa.select(USAGE.c.key_id, *sums)
                .where(USAGE.c.day == day, USAGE.c.key_id.in_(part))
                .group_by(USAGE.c.key_id)
            )
            rows = self._database.read(lambda c, s=statement: list(c.execute(s).mappings()))
            result |= {row["key_id"]: _usage(dict(row)) for row in rows}
        return result

    def since(self, day: int, *, key_id: str | None = None) -> list[tuple[Place, Usage]]:
        """What was used from that day on, by day, key and model."""
        statement = USAGE.select().where(USAGE.c.day >= day)
        if key_id is not None:
            statement = statement.where(USAGE.c.key_id == key_id)
        statement = statement.order_by(USAGE.c.day, USAGE.c.key_id, USAGE.c.model)
        rows = self._database.read(lambda c: [dict(r) for r in c.execute(statement).mappings()])
        return [
            (Place(day=row["day"], key_id=row["key_id"], model=row["model"]), _usage(row))
            for row in rows
        ]


def _identity(place: Place) -> dict[str, int | str]:
    return {"day": place.day, "key_id": place.key_id, "model": place.model[:256]}


def _counts(usage: Usage) -> dict[str, int]:
    return {name: getattr(usage, name) for name in _COUNTS}


def _usage(row: dict[str, int]) -> Usage:
    return Usage(**{name: int(row[name]) for name in _COUNTS})
