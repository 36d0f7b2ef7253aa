"""The switch to write-ahead logging, where several open one new file."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastchat.store import wal
from fastchat.store.wal import switch_to_wal


def mode(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


@pytest.fixture
def first(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Has locked the new file."""
    first = sqlite3.connect(tmp_path / "file.db", isolation_level=None)
    first.execute("BEGIN EXCLUSIVE")
    yield first
    first.close()


@pytest.fixture
def second(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    second = sqlite3.connect(tmp_path / "file.db", timeout=0, isolation_level=None)
    yield second
    second.close()


def test_who_finds_the_file_locked_waits(
    first: sqlite3.Connection, second: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        switch_to_wal(second, wait_s=0)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            first.execute("ROLLBACK")

    monkeypatch.setattr(wal, "time", SimpleNamespace(sleep=sleep))
    switch_to_wal(second, wait_s=1)
    assert len(waits) == 3
    assert mode(first) == mode(second) == "wal"


def test_time_in_which_it_stood_still_is_no_wait(
    first: sqlite3.Connection, second: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, tries = [0.0], [0]

    def sleep(seconds: float) -> None:
        now[0] += 60
        tries[0] += 1
        if tries[0] == 2:
            first.execute("ROLLBACK")

    stopped = SimpleNamespace(sleep=sleep, monotonic=lambda: now[0], time=time.time)
    monkeypatch.setattr(wal, "time", stopped)
    switch_to_wal(second, wait_s=1)
    assert mode(second) == "wal"
