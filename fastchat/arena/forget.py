"""Lines of the log that are forgotten, and pictures with them.

A line is overwritten with blanks where it stands: a server that appends to the file meanwhile
loses nothing, and every reader skips what is blank.
"""

import datetime
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import orjson

from fastchat.arena.events import LOG_SUFFIX, Event, event_from_row, log_files
from fastchat.errors import DataError, UsageError

PICTURES = "serve_images"
"""Folder of the pictures, beside the logs."""


def days_before(root: Path, moment: float) -> list[Path]:
    """The daily logs whose day was over before `moment` (seconds, UTC)."""
    day = datetime.datetime.fromtimestamp(moment, datetime.UTC).date().isoformat()
    return [path for path in known_logs(root) if path.name.removesuffix(LOG_SUFFIX) < day]


def known_logs(root: Path) -> list[Path]:
    """The daily logs; none where there are none yet."""
    try:
        return log_files(root)
    except UsageError:
        return []


def remove_days(root: Path, moment: float) -> int:
    """Removes the logs of the days before `moment`; gives how many there were.

    Raises:
        OSError: one cannot be removed.
    """
    old = days_before(root, moment)
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def remove_pictures(root: Path, hashes: Iterable[str]) -> int:
    """Removes the files of these pictures; gives how many there were.

    Raises:
        OSError: one cannot be removed.
    """
    n = 0
    for name in hashes:
        for suffix in (".png", ".jpg"):
            with suppress(FileNotFoundError):
                (root / PICTURES / f"{name}{suffix}").unlink()
                n += 1
    return n


def events_of(path: Path) -> Iterator[tuple[int, bytes, Event]]:
    """Where each line begins, its bytes without their end, and its event; others are skipped."""
    start = 0
    with path.open("rb") as file:
        for line in file:
            with suppress(DataError, orjson.JSONDecodeError):
                yield start, line.rstrip(b"\r\n"), event_from_row(orjson.loads(line))
            start += len(line)


def blank_lines(path: Path, is_forgotten: Callable[[Event], bool], *, dry: bool = False) -> int:
    """Overwrites the lines whose event is forgotten; gives how many there were.

    dry: only counts them.

    Raises:
        OSError: the file cannot be written.
    """
    found = [(at, line) for at, line, event in events_of(path) if is_forgotten(event)]
    if found and not dry:
        handle = os.open(path, os.O_WRONLY)
        try:
            for at, line in found:
                os.pwrite(handle, b" " * len(line), at)
            os.fsync(handle)
        finally:
            os.close(handle)
    return len(found)
