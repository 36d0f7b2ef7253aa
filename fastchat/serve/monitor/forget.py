"""Forgets what a person said in the arena, or what is older than so many days.

python3 -m fastchat.serve.monitor.forget --address 203.0.113.7
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastchat.errors import DataError, UsageError
from fastchat.settings import CommaList, Env, alias, run_command

if TYPE_CHECKING:
    from fastchat.store.arena_forget import Forgotten
    from fastchat.store.database import Database

PROG = "python3 -m fastchat.serve.monitor.forget"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetSettings:
    """Forgets texts, pictures, shared pages and voters' names; outcomes of votes stay."""

    database_url: Annotated[str, Env("FASTCHAT_DATABASE_URL")] = "fastchat.db"
    """The web server's store, which may be running."""
    log_root: Annotated[Path, Env("LOGDIR"), alias("--logdir")] = Path(".")
    """Folder of the server's logs and pictures."""
    address: CommaList = ()
    """Addresses of people, as they reached the page."""
    voter: CommaList = ()
    """People as the store and the log name them (the field `ip` of a line)."""
    conversation: CommaList = ()
    """Ids of conversations (the field `conv_id` of a line)."""
    older_than_days: float | None = None
    """Everything that is older."""
    debug: bool = False
    """Show tracebacks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; gives the exit status."""
    return run_command(ForgetSettings, forget, argv, prog=PROG)


def forget(settings: ForgetSettings) -> None:
    """Forgets, and prints how much.

    Raises:
        UsageError: nothing is named, or the store is not there.
        DataError: a file of the log cannot be written.
    """
    from fastchat.arena.store_battles import opened_store

    people = settings.address or settings.voter or settings.conversation
    if bool(people) == (settings.older_than_days is not None):
        raise UsageError("Give --address, --voter, --conversation, or --older-than-days alone.")
    with opened_store(settings.database_url) as database:
        try:
            if settings.older_than_days is not None:
                found, n_lines = _forget_old(database, settings, settings.older_than_days)
            else:
                found, n_lines = _forget_people(database, settings)
        except OSError as error:
            raise DataError(
                f"The store has forgotten, the log has not: {error.strerror}. "
                "Run the command again as the user who writes the log."
            ) from None
    print(
        f"forgotten: {found.conversations} conversations, {found.shares} shared pages, "
        f"{len(found.pictures)} pictures, names beside {found.votes} votes, {n_lines} of the log"
    )


def _forget_old(
    database: "Database", settings: ForgetSettings, days: float
) -> "tuple[Forgotten, str]":
    from fastchat.arena.forget import remove_days, remove_pictures
    from fastchat.store.arena_forget import forget_before

    if days < 0:
        raise UsageError(f"--older-than-days {days:g} lies in the future.")
    moment = time.time() - 86_400 * days
    found = forget_before(database, moment)
    remove_pictures(settings.log_root, found.pictures)
    return found, f"{remove_days(settings.log_root, moment)} days"


def _forget_people(database: "Database", settings: ForgetSettings) -> "tuple[Forgotten, str]":
    """The log knows the conversations that nobody voted on, the store those of the votes."""
    from fastchat.arena.forget import blank_lines, events_of, known_logs, remove_pictures
    from fastchat.store.arena_forget import forget_people

    voters = _voters(database, settings)
    logs = known_logs(settings.log_root)
    keys = set(settings.conversation)
    for path in logs:
        for _, _, event in events_of(path):
            if event.ip in voters:
                keys |= {state.conv_id for state in event.states}
    found = forget_people(database, voters=voters, keys=keys)
    remove_pictures(settings.log_root, found.pictures)
    n = sum(
        blank_lines(
            path,
            lambda event: (
                event.ip in voters or bool(keys & {state.conv_id for state in event.states})
            ),
        )
        for path in logs
    )
    return found, f"{n} lines"


def _voters(database: "Database", settings: ForgetSettings) -> set[str]:
    """The people as they are stored: an address as its hash, or as it is."""
    from fastchat.store.arena import ArenaStore
    from fastchat.web.visitors import pseudonym

    key = ArenaStore(database).secret("voters")
    hashed = {pseudonym(address, key) for address in settings.address}
    return {*settings.voter, *settings.address, *hashed}


if __name__ == "__main__":
    sys.exit(main())
