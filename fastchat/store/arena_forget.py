"""What the arena's memory forgets: texts and people's names go, outcomes of votes stay.

A conversation that was forgotten keeps its row, since its battle and the vote on it do, and has
no messages. So the ratings of votes stay what they were; boards that ask for texts lose the
battle.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from fastchat.store.arena_tables import battles, conversations, flags, images, shares, votes
from fastchat.store.database import Database

NOTHING_SAID = "[]"
AT_ONCE = 500
"""Keys in one statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """How much was forgotten, and which files are to follow."""

    conversations: int = 0
    votes: int = 0
    """Votes that nobody's name stands beside any more."""
    shares: int = 0
    pictures: tuple[str, ...] = ()
    """Hashes of pictures whose files are to be removed."""


def forget_before(database: Database, moment: float) -> Forgotten:
    """Forgets what was said, shown, shared and by whom before `moment` (seconds, UTC).

    Raises:
        StoreError: the database cannot be used now; nothing was forgotten.
    """

    def body(c: sa.Connection) -> Forgotten:
        old = images.c.seen_at < moment
        pictures = c.execute(sa.select(images.c.hash).where(old)).scalars().all()
        c.execute(images.delete().where(old))
        said = conversations.c.updated_at < moment
        named = votes.c.voted_at < moment
        c.execute(flags.update().where(flags.c.at < moment).values(voter=""))
        return Forgotten(
            conversations=_silence(c, said),
            votes=_unname(c, named),
            shares=c.execute(shares.delete().where(shares.c.created_at < moment)).rowcount,
            pictures=tuple(pictures),
        )

    return _thoroughly(database, body)


def forget_people(
    database: Database, *, voters: Collection[str] = (), keys: Collection[str] = ()
) -> Forgotten:
    """Forgets what these people said, and what was said in these conversations.

    voters: as they are stored: keyed hashes, or addresses.
    keys: ids of conversations; the other sides of their battles are forgotten with them.

    Raises:
        StoreError: the database cannot be used now; nothing was forgotten.
    """

    def body(c: sa.Connection) -> Forgotten:
        known = _conversations_of(c, voters, keys)
        pictures = _pictures_in(c, known)
        for part in _parts(pictures):
            c.execute(images.delete().where(images.c.hash.in_(part)))
        c.execute(flags.update().where(flags.c.voter.in_(list(voters))).values(voter=""))
        n_votes = _unname(c, votes.c.voter.in_(list(voters)))
        for part in _parts(_battles_of(c, known)):
            n_votes += _unname(c, votes.c.battle_id.in_(part))
        return Forgotten(
            shares=_unshare(c, set(known)),
            conversations=sum(_silence(c, conversations.c.id.in_(p)) for p in _parts(known)),
            votes=n_votes,
            pictures=tuple(pictures),
        )

    return _thoroughly(database, body)


def _thoroughly(database: Database, body: Callable[[sa.Connection], Forgotten]) -> Forgotten:
    """Runs `body`. SQLite then also overwrites what it no longer needs in its two files;
    PostgreSQL does that when it next vacuums."""

    def overwriting(c: sa.Connection) -> Forgotten:
        if database.is_sqlite:
            c.exec_driver_sql("PRAGMA secure_delete=ON")
        return body(c)

    found = database.write(overwriting)
    if database.is_sqlite:
        with contextlib.closing(database.engine.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return found


def _silence(c: sa.Connection, which: sa.ColumnElement[bool]) -> int:
    said = conversations.update().where(which, conversations.c.messages != NOTHING_SAID)
    return c.execute(said.values(messages=NOTHING_SAID, gen_params="{}")).rowcount


def _unname(c: sa.Connection, which: sa.ColumnElement[bool]) -> int:
    return c.execute(votes.update().where(which, votes.c.voter != "").values(voter="")).rowcount


def _conversations_of(
    c: sa.Connection, voters: Collection[str], keys: Collection[str]
) -> list[str]:
    """Ids of the conversations of these people and of their battles' other sides."""
    found = set(keys)
    voted = sa.select(votes.c.battle_id).where(votes.c.voter.in_(list(voters)))
    pairs = sa.select(battles.c.conversation_a, battles.c.conversation_b)
    for a, b in c.execute(pairs.where(battles.c.id.in_(voted))):
        found |= {a, b}
    flagged = sa.select(flags.c.conversation_id).where(flags.c.voter.in_(list(voters)))
    found |= set(c.execute(flagged).scalars())
    for part in _parts(sorted(found)):
        for a, b in c.execute(pairs.where(_fought_in(part))):
            found |= {a, b}
    return sorted(found)


def _battles_of(c: sa.Connection, keys: Sequence[str]) -> list[str]:
    """Ids of the battles that these conversations are sides of."""
    return [
        battle
        for part in _parts(keys)
        for battle in c.execute(sa.select(battles.c.id).where(_fought_in(part))).scalars()
    ]


def _fought_in(keys: Sequence[str]) -> sa.ColumnElement[bool]:
    return battles.c.conversation_a.in_(keys) | battles.c.conversation_b.in_(keys)


def _pictures_in(c: sa.Connection, keys: Sequence[str]) -> list[str]:
    """Hashes of the pictures in these conversations."""
    found: set[str] = set()
    for part in _parts(keys):
        said = sa.select(conversations.c.messages).where(conversations.c.id.in_(part))
        for text in c.execute(said).scalars():
            found.update(pictures_of(orjson.loads(text)))
    return sorted(found)


def pictures_of(messages: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Hashes of the pictures in messages as the store and the log have them."""
    for _, content, *_ in messages:
        if isinstance(content, list) and len(content) > 1 and isinstance(content[1], list):
            yield from (name for name in content[1] if isinstance(name, str))


def _unshare(c: sa.Connection, keys: set[str]) -> int:
    """Removes the shared pages of these conversations; gives how many there were."""
    tokens = [
        token
        for token, page in c.execute(sa.select(shares.c.token, shares.c.page))
        if keys & set(orjson.loads(page).get("conversations", ()))
    ]
    for part in _parts(tokens):
        c.execute(shares.delete().where(shares.c.token.in_(part)))
    return len(tokens)


def _parts(keys: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), AT_ONCE):
        yield list(keys[start : start + AT_ONCE])
