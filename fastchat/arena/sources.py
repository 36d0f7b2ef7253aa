"""Where rows of battles come from: a file of any kind, a log, a folder of logs, or a store."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastchat.arena.battles import Cleaner
from fastchat.arena.events import LOG_SUFFIX, Event, Unread, log_files, read_events
from fastchat.arena.row_files import input_rows
from fastchat.arena.voter_key import KEY_NAME, kept_key
from fastchat.errors import DataError

_STORES = (".db", ".sqlite", ".sqlite3")


def is_store(source: str) -> bool:
    """Whether the words name a database rather than a file of rows."""
    return "://" in source or source.endswith(_STORES)


def is_log(source: str) -> bool:
    """Whether the words name a log, or a folder of logs."""
    return source.endswith(LOG_SUFFIX) or Path(source).expanduser().is_dir()


def events_of(source: str) -> Iterator[Event | Unread]:
    """The events of a log, a folder of logs or a store; of a store its votes.

    Raises:
        UsageError: there is no log in the folder, or the URL is of no known kind.
        DataError: the log cannot be read.
    """
    if is_store(source):
        from fastchat.arena.store_battles import votes_of_store

        return votes_of_store(source)
    path = Path(source).expanduser()
    return read_events(log_files(path) if path.is_dir() else [path])


def battle_rows(source: str, refused: Counter[str]) -> Iterator[dict[str, Any]]:
    """The published rows of battles, texts included; what is left out is counted by reason.

    Votes of logs and stores are cleaned on the way, by the rules of `clean_battle_data`.

    Raises:
        UsageError, DataError: the source cannot be used; the message names it.
    """
    if not source:
        raise DataError("the name of the input is empty; name a file, a folder of logs or a store.")
    if not is_store(source) and not is_log(source):
        return input_rows(Path(source).expanduser(), refused)
    if is_store(source):
        cleaner = Cleaner(keep_addresses=True)  # the store holds hidden names
    else:
        path = Path(source).expanduser()
        cleaner = Cleaner(key=kept_key((path if path.is_dir() else path.parent) / KEY_NAME))
    cleaner.report.dropped = refused
    return cleaner.rows(events_of(source))
