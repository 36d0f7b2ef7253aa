"""The switch of an SQLite file to write-ahead logging, in which readers go on beside a writer."""

import sqlite3
import time

PAUSE_S = 0.01
"""Between two tries."""


def switch_to_wal(connection: sqlite3.Connection, *, wait_s: float) -> None:
    """Switches the file that `connection` has open.

    Waits itself: where two first users of a new file switch it at once, SQLite refuses one of
    them without its usual wait. Pauses are counted, as SQLite counts its own, and not the time: a
    process that stood still has not waited for anybody.

    Raises:
        sqlite3.OperationalError: the file stayed locked for `wait_s`.
    """
    for _ in range(round(wait_s / PAUSE_S)):
        try:
            return _switch(connection)
        except sqlite3.OperationalError:
            time.sleep(PAUSE_S)
    _switch(connection)


def _switch(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
