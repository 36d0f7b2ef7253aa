"""The switch of an SQLite file to write-ahead logging, in which readers go on beside a writer."""

import sqlite3
import time


def switch_to_wal(connection: sqlite3.Connection, *, wait_s: float) -> None:
    """Switches the file that `connection` has open.

    Waits itself: where two first users of a new file switch it at once, SQLite refuses one of
    them without its usual wait.

    Raises:
        sqlite3.OperationalError: the file stayed locked for `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
