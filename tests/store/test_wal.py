"""The switch to write-ahead logging, where several open one new file."""

import sqlite3
import threading
from pathlib import Path

import pytest

from fastchat.store.wal import switch_to_wal


def mode(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_who_finds_the_file_locked_waits(tmp_path: Path) -> None:
    first = sqlite3.connect(tmp_path / "file.db", isolation_level=None, check_same_thread=False)
    first.execute("BEGIN EXCLUSIVE")
    second = sqlite3.connect(tmp_path / "file.db", timeout=0, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        switch_to_wal(second, wait_s=0)
    later = threading.Timer(0.05, first.execute, ["ROLLBACK"])
    later.start()
    switch_to_wal(second, wait_s=60)
    later.join()
    assert mode(first) == mode(second) == "wal"
    first.close()
    second.close()
