"""Makes, shows and revokes the API keys of a gateway that has the same database.

    python3 -m fastchat.serve.keys create --name "data team" --models "vicuna-*"
    python3 -m fastchat.serve.keys list
    python3 -m fastchat.serve.keys revoke "data team"

A key is printed once, when it is made; the database holds only a digest of it.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fastchat.errors import UsageError
from fastchat.settings import CommaList, Env, Group, run_command

if TYPE_CHECKING:
    from collections.abc import Generator

    from fastchat.store.keys import ApiKey, KeyStore, Limits
    from fastchat.store.usage import Place, Usage, UsageStore

PROG = "python3 -m fastchat.serve.keys"
DAY_S = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFlags:
    database_url: Annotated[str, Env("FASTCHAT_KEYS_DATABASE_URL")] = "fastchat.db"
    """Database of the gateway: a SQLite file, or postgresql://user:password@host/name."""
    json: bool = False
    """Print JSON."""
    debug: bool = False
    """Show tracebacks."""


class OfStore:
    """Settings with the flags of the store."""

    __slots__ = ()

    if TYPE_CHECKING:
        store: StoreFlags

    @property
    def debug(self) -> bool:
        return self.store.debug


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitFlags:
    requests_per_minute: int | None = None
    """Requests within any minute, at each gateway."""
    tokens_per_minute: int | None = None
    """Tokens of prompts and answers within any minute, at each gateway."""
    requests_per_day: int | None = None
    """Requests of a day (UTC), at all gateways together."""
    tokens_per_day: int | None = None
    """Tokens of a day (UTC), at all gateways together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSettings(OfStore):
    """Make a key and print it, this once."""

    name: str = ""
    """Whose key it is, or what for."""
    models: CommaList = ()
    """Patterns of the models it may ask, as "vicuna-*,m"; without any, all."""
    expires_days: float | None = None
    """Days after which it ends; without, never."""
    limits: Group[LimitFlags] = LimitFlags()
    store: Group[StoreFlags] = StoreFlags()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSettings(OfStore):
    """Show the keys that open the server."""

    all: bool = False
    """Also those that were revoked or have expired."""
    store: Group[StoreFlags] = StoreFlags()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowSettings(OfStore):
    """Show one key, and what it used today."""

    key: tyro.conf.Positional[str] = ""
    """Its id, name, or visible beginning."""
    store: Group[StoreFlags] = StoreFlags()


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeSettings(OfStore):
    """End a key; gateways refuse it within seconds."""

    key: tyro.conf.Positional[str] = ""
    """Its id, name, or visible beginning."""
    store: Group[StoreFlags] = StoreFlags()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings(OfStore):
    """Change what is given; -1 takes a limit away."""

    key: tyro.conf.Positional[str] = ""
    """Its id, name, or visible beginning."""
    name: str | None = None
    """New name."""
    models: CommaList | None = None
    """New patterns of the models it may ask; * for all."""
    expires_days: float | None = None
    """Days from now after which it ends; -1 for never."""
    limits: Group[LimitFlags] = LimitFlags()
    store: Group[StoreFlags] = StoreFlags()


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSettings(OfStore):
    """Show requests and tokens by day, key and model."""

    key: tyro.conf.Positional[str] = ""
    """Only of this key: its id, name, or visible beginning."""
    days: int = 7
    """How many days (UTC), today included."""
    store: Group[StoreFlags] = StoreFlags()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the commands; gives the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if (found := COMMANDS.get(words[0])) is None:
        print(f"keys: there is no command {words[0]!r}.\n{_help()}", file=sys.stderr)
        return 2
    settings, body = found
    return run_command(settings, body, words[1:], prog=f"{PROG} {words[0]}")


def create(settings: CreateSettings) -> None:
    from fastchat.store.keys import Limits

    now = time.time()
    with _stores(settings.store) as (keys, _):
        key, text = keys.create(
            settings.name,
            now=now,
            models=settings.models,
            limits=Limits(**dataclasses.asdict(settings.limits)),
            expires_at=_expiry(settings.expires_days, now),
        )
    if settings.store.json:
        _print_json(_shown(key) | {"key": text})
    else:
        print(text)
        print(f"Key {key.id}, {key.name!r}. It cannot be shown again: keep it.", file=sys.stderr)


def list_keys(settings: ListSettings) -> None:
    with _stores(settings.store) as (keys, _):
        now = time.time()
        shown = [key for key in keys.all() if settings.all or key.is_valid(now)]
    if settings.store.json:
        _print_json([_shown(key) for key in shown])
        return
    rows = [_row(key, now) for key in shown]
    _print_table(["id", "begins", "name", "created", "state", "models", "limits"], rows)


def show(settings: ShowSettings) -> None:
    from fastchat.store.usage import day_of

    with _stores(settings.store) as (keys, usage):
        key = keys.find(_named(settings.key, "show"))
        used = usage.of_day(day_of(time.time()), [key.id])[key.id]
    value = _shown(key) | {"today": {"requests": used.requests, "tokens": used.tokens}}
    if settings.store.json:
        _print_json(value)
    else:
        _print_table(["field", "value"], [[name, str(value[name])] for name in value])


def revoke(settings: RevokeSettings) -> None:
    with _stores(settings.store) as (keys, _):
        key = keys.find(_named(settings.key, "revoke"))
        if key.revoked_at is None:
            key = dataclasses.replace(key, revoked_at=time.time())
            keys.change(key)
    if settings.store.json:
        _print_json(_shown(key))
    else:
        print(f"Revoked {key.id}, {key.name!r}.")


def update(settings: UpdateSettings) -> None:
    with _stores(settings.store) as (keys, _):
        key = _updated(keys.find(_named(settings.key, "update")), settings)
        keys.change(key)
    if settings.store.json:
        _print_json(_shown(key))
    else:
        print(f"Changed {key.id}, {key.name!r}: models {_models(key)}, {_limits(key.limits)}.")


def show_usage(settings: UsageSettings) -> None:
    from fastchat.store.usage import day_of

    if settings.days < 1:
        raise UsageError(f"--days {settings.days}: give 1 or more.")
    first = day_of(time.time()) - settings.days + 1
    with _stores(settings.store) as (keys, usage):
        key_id = keys.find(settings.key).id if settings.key else None
        names = {key.id: key.name for key in keys.all()}
        rows = [_usage_row(place, used, names) for place, used in usage.since(first, key_id=key_id)]
    if settings.store.json:
        _print_json(rows)
        return
    columns = ["day", "name", "model", "requests", "prompt_tokens", "completion_tokens"]
    columns.append("estimated_requests")
    _print_table(columns, [[str(row[column]) for column in columns] for row in rows])


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "create": (CreateSettings, create),
    "list": (ListSettings, list_keys),
    "show": (ShowSettings, show),
    "revoke": (RevokeSettings, revoke),
    "update": (UpdateSettings, update),
    "usage": (UsageSettings, show_usage),
}


@contextmanager
def _stores(flags: StoreFlags) -> "Generator[tuple[KeyStore, UsageStore]]":
    from fastchat.store.database import Database
    from fastchat.store.keys import KeyStore
    from fastchat.store.usage import UsageStore

    database = Database(flags.database_url)
    try:
        yield KeyStore(database), UsageStore(database)
    finally:
        database.close()


def _named(reference: str, command: str) -> str:
    if not reference:
        raise UsageError(f"Name a key: {PROG} {command} ID_OR_NAME.")
    return reference


def _expiry(days: float | None, now: float) -> float | None:
    if days is None:
        return None
    if not 0 < days < 1e6:
        raise UsageError(f"--expires-days {days:g}: give a number above 0.")
    return now + days * DAY_S


def _updated(key: "ApiKey", settings: UpdateSettings) -> "ApiKey":
    given = dataclasses.asdict(settings.limits)
    limits = {
        name: None if value == -1 else value for name, value in given.items() if value is not None
    }
    changes: dict[str, Any] = {"limits": dataclasses.replace(key.limits, **limits)}
    if settings.name is not None:
        changes["name"] = settings.name
    if settings.models is not None:
        changes["models"] = () if settings.models == ("*",) else settings.models
    if settings.expires_days is not None:
        never = settings.expires_days == -1
        changes["expires_at"] = None if never else _expiry(settings.expires_days, time.time())
    return dataclasses.replace(key, **changes)


def _shown(key: "ApiKey") -> dict[str, Any]:
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "models": list(key.models),
        **dataclasses.asdict(key.limits),
    }


def _row(key: "ApiKey", now: float) -> list[str]:
    begins, created = f"{key.prefix}…", _day(key.created_at)
    models, limits = ",".join(key.models) or "all", _limits(key.limits)
    return [key.id, begins, key.name, created, _state(key, now), models, limits]


def _usage_row(place: "Place", used: "Usage", names: dict[str, str]) -> dict[str, Any]:
    return {
        "day": _day(place.day * DAY_S),
        "key_id": place.key_id,
        "name": names.get(place.key_id, place.key_id),
        "model": place.model,
        **dataclasses.asdict(used),
    }


def _state(key: "ApiKey", now: float) -> str:
    if key.revoked_at is not None:
        return f"revoked {_day(key.revoked_at)}"
    if key.expires_at is None:
        return "valid"
    return f"{'until' if now < key.expires_at else 'expired'} {_day(key.expires_at)}"


def _models(key: "ApiKey") -> str:
    return ", ".join(key.models) or "all"


def _limits(limits: "Limits") -> str:
    given = dataclasses.asdict(limits)
    words = [f"{given[name]} {name.replace('_', ' ')}" for name in given if given[name] is not None]
    return ", ".join(words) or "no limits"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    """Columns of text, without a library's start-up time."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        print(
            "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        )


def _help() -> str:
    lines = [f"usage: {PROG} COMMAND [--help] ...", "", "API keys of a gateway.", ""]
    lines += [f"  {name:<8} {kind.__doc__}" for name, (kind, _) in COMMANDS.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
