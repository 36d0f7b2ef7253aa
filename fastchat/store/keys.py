"""API keys: who may ask, for which models, and how much. Only a digest of a key is kept.

Knows nothing of requests; what was used stands in `usage`.
"""

import dataclasses
import fnmatch
import hashlib
import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fastchat.errors import NotFoundError, UsageError
from fastchat.store.database import Database, metadata

KEY_MARK = "fc-"
"""How every key of ours begins, so that one is known for what it is when it leaks."""
_KEY_BYTES = 32
_SHOWN_LENGTH = 9
MAX_NAME_LENGTH = 200
MAX_LIMIT = 10**15

KEYS = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("prefix", sa.String(16), nullable=False),
    sa.Column("name", sa.String(MAX_NAME_LENGTH), nullable=False),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("expires_at", sa.Float(53)),
    sa.Column("revoked_at", sa.Float(53)),
    sa.Column("models", sa.Text, nullable=False),
    sa.Column("requests_per_minute", sa.BigInteger),
    sa.Column("tokens_per_minute", sa.BigInteger),
    sa.Column("requests_per_day", sa.BigInteger),
    sa.Column("tokens_per_day", sa.BigInteger),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a key may use; None is without limit. Days are those of UTC."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None

    @property
    def has_any(self) -> bool:
        return any(getattr(self, field.name) is not None for field in dataclasses.fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is known of a key; the key itself is not."""

    id: str
    prefix: str
    """Its first characters, by which its owner recognises it."""
    name: str
    created_at: float
    """UTC seconds, like the others."""
    expires_at: float | None = None
    revoked_at: float | None = None
    models: tuple[str, ...] = ()
    """Patterns such as `vicuna-*` of the models it may ask; none means all."""
    limits: Limits = Limits()

    def is_valid(self, now: float) -> bool:
        """Whether it opens the server at `now`, in UTC seconds."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def allows(self, model: str) -> bool:
        """Whether it may ask this model, written exactly as here."""
        return not self.models or any(fnmatch.fnmatchcase(model, p) for p in self.models)


def digest_of(key: bytes) -> str:
    """What is stored in a key's place.

    A plain SHA-256 is enough: a key holds 256 random bits, which no list of words finds.
    """
    return hashlib.sha256(key).hexdigest()


class KeyStore:
    """The keys in a database, safe to use from several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create([KEYS])

    def create(
        self,
        name: str,
        *,
        now: float,
        models: Sequence[str] = (),
        limits: Limits | None = None,
        expires_at: float | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key, and its text, which can never be had again.

        Raises:
            UsageError: the name, a pattern or a limit cannot be used.
        """
        text = KEY_MARK + secrets.token_urlsafe(_KEY_BYTES)
        key = ApiKey(
            id=f"key_{secrets.token_hex(8)}",
            prefix=text[:_SHOWN_LENGTH],
            name=name,
            created_at=now,
            expires_at=expires_at,
            models=tuple(models),
            limits=limits or Limits(),
        )
        _check(key)
        row = _row(key) | {"digest": digest_of(text.encode())}
        self._database.write(lambda c: c.execute(KEYS.insert(), row))
        return key, text

    def with_digest(self, digest: str) -> ApiKey | None:
        """The key of this digest, valid or not."""
        found = self._select(KEYS.c.digest == digest)
        return found[0] if found else None

    def with_ids(self, ids: Collection[str]) -> list[ApiKey]:
        """Those of these keys that exist."""
        wanted = list(ids)
        parts = [wanted[i : i + 500] for i in range(0, len(wanted), 500)]
        return [key for part in parts for key in self._select(KEYS.c.id.in_(part))]

    def all(self) -> list[ApiKey]:
        """Every key, oldest first, those that ended as well."""
        return self._select(sa.true())

    def find(self, reference: str) -> ApiKey:
        """The key with this id, visible beginning or name.

        Raises:
            NotFoundError: there is none.
            UsageError: several have this beginning or name.
        """
        columns = (KEYS.c.id, KEYS.c.prefix, KEYS.c.name)
        found = self._select(sa.or_(*(column == reference for column in columns)))
        if not found:
            raise NotFoundError(f"There is no key {reference!r}; 'list' shows those there are.")
        if len(found) > 1:
            ids = ", ".join(key.id for key in found)
            raise UsageError(f"{reference!r} means several keys: name one of {ids}.")
        return found[0]

    def change(self, key: ApiKey) -> None:
        """Stores `key` in place of what was known of its id.

        Raises:
            UsageError: the name, a pattern or a limit cannot be used.
            NotFoundError: there is no key of this id any more.
        """
        _check(key)
        statement = KEYS.update().where(KEYS.c.id == key.id).values(**_row(key))
        if self._database.write(lambda c: c.execute(statement).rowcount) != 1:
            raise NotFoundError(f"There is no key {key.id!r}; 'list' shows those there are.")

    def _select(self, where: sa.ColumnElement[bool]) -> list[ApiKey]:
        statement = KEYS.select().where(where).order_by(KEYS.c.created_at, KEYS.c.id)
        return self._database.read(
            lambda c: [_key(dict(row)) for row in c.execute(statement).mappings()]
        )


def _row(key: ApiKey) -> dict[str, Any]:
    row = {field.name: getattr(key, field.name) for field in dataclasses.fields(ApiKey)}
    row["models"] = json.dumps(key.models)
    return row | dataclasses.asdict(row.pop("limits"))


def _key(row: dict[str, Any]) -> ApiKey:
    del row["digest"]
    limits = Limits(**{field.name: row.pop(field.name) for field in dataclasses.fields(Limits)})
    return ApiKey(**row | {"models": tuple(json.loads(row["models"])), "limits": limits})


def _check(key: ApiKey) -> None:
    """
    Raises:
        UsageError: a part of `key` cannot be stored.
    """
    if not key.name.strip() or not key.name.isprintable() or len(key.name) > MAX_NAME_LENGTH:
        raise UsageError(
            f"A key's name has 1 to {MAX_NAME_LENGTH} printable characters, not {key.name[:50]!r}."
        )
    for pattern in key.models:
        if not pattern or not pattern.isprintable() or len(pattern) > 256:
            raise UsageError(f"{pattern[:50]!r} is no pattern of model names such as 'vicuna-*'.")
    for field in dataclasses.fields(Limits):
        value = getattr(key.limits, field.name)
        if value is not None and not 0 <= value <= MAX_LIMIT:
            flag = field.name.replace("_", "-")
            raise UsageError(f"--{flag} {value}: give a number from 0 to {MAX_LIMIT}.")
