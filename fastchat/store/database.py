"""The one database of the platform: SQLite in WAL mode by default, PostgreSQL by URL.

Knows transactions and failures, and no table: each part of the store declares its tables on
`metadata`, names them when it opens, and asks its questions through `Database.read` and
`Database.write`. What `write` has returned from is on the disk.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from fastchat.errors import StoreError, UsageError
from fastchat.settings import Env
from fastchat.store.wal import switch_to_wal

T = TypeVar("T")

metadata = sa.MetaData()
"""Where every part of the store declares its tables."""

BUSY_S = 15
"""How long a transaction waits for another process before it is refused."""

CONNECT_S = 15
"""How long a transaction waits for a connection: to PostgreSQL, or one of ours that is in use."""

_making_files = threading.Lock()

TURN_S = 45
"""How long a writer waits for others of its process; more than one of them may need."""

CREATION_LOCK = 0x46617374
"""Two processes that open a new PostgreSQL database create its tables one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where the platform remembers."""

    database_url: Annotated[str, Env("FASTCHAT_DATABASE_URL")] = "fastchat.db"
    """SQLite file, or a URL such as postgresql://user:password@host/name."""


class Database:
    """Transactions over one SQLite file or PostgreSQL database; shared by all threads."""

    def __init__(self, url: str) -> None:
        """Connects at the first transaction.

        Args:
            url: a path of a SQLite file, `sqlite:///path` or `postgresql://...`.

        Raises:
            UsageError: the URL is of another kind.
        """
        self.url = _parsed(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        waits = {"timeout": BUSY_S} if self.is_sqlite else {"connect_timeout": CONNECT_S}
        self.engine = sa.create_engine(
            self.url,
            connect_args=waits,
            hide_parameters=True,
            pool_pre_ping=not self.is_sqlite,
            pool_timeout=CONNECT_S,
        )
        # SQLite has one writer; threads of this process queue here, which is fair, where its
        # own way of waiting is to ask again and again.
        self._turn = threading.Lock() if self.is_sqlite else None
        if self.is_sqlite:
            event.listen(self.engine, "do_connect", _make_private)
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            event.listen(self.engine, "connect", _configure_postgresql)

    def create(self, tables: Sequence[sa.Table]) -> None:
        """Creates those of `tables`, with their indexes, that are not there yet."""

        def body(connection: sa.Connection) -> None:
            if not self.is_sqlite:
                lock = sa.func.pg_advisory_xact_lock(CREATION_LOCK)
                connection.execute(sa.select(lock))
            metadata.create_all(connection, tables=list(tables))

        self.write(body)

    def write(self, body: Callable[[sa.Connection], T]) -> T:
        """Runs `body` in one transaction; returns its result once that is on the disk.

        Raises:
            StoreError: the database is locked, full or gone; nothing was written.
            UsageError: it cannot hold a value, such as a text with NUL.
            IntegrityError: a constraint refused it; nothing was written.
        """
        with (
            _told(),
            self._taken_turn(),
            self._connection(writes=True) as connection,
            connection.begin(),
        ):
            return body(connection)

    def read(self, body: Callable[[sa.Connection], T]) -> T:
        """Runs `body`, which only reads, on one consistent state.

        Raises:
            StoreError: the database is locked or gone.
        """
        with _told(), self._connection(writes=False) as connection, connection.begin():
            return body(connection)

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()

    @contextlib.contextmanager
    def _taken_turn(self) -> Generator[None]:
        """Waits for other writers of this process. Bounded, or where the file stays locked each
        would be told `BUSY_S` after the one before it."""
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=TURN_S):
            raise TimeoutError
        try:
            yield
        finally:
            self._turn.release()

    def _connection(self, *, writes: bool) -> sa.Connection:
        return self.engine.connect().execution_options(fastchat_writes=writes)


def _parsed(text: str) -> sa.URL:
    """The URL of a file's path or of a URL, with the driver that we install."""
    if "://" not in text:
        text = f"sqlite:///{text}"
    try:
        url = sa.make_url(text)
    except (SQLAlchemyError, ValueError):
        raise UsageError(f"{_shown(text)} is no database URL. {_KINDS}") from None
    match url.get_backend_name():
        case "sqlite":
            if url.database in (None, "", ":memory:"):
                raise UsageError(f"The SQLite database needs a file. {_KINDS}")
            return url.set(database=str(_with_folder(Path(str(url.database)).expanduser())))
        case "postgresql" | "postgres":
            return url.set(drivername="postgresql+psycopg")
        case other:
            raise UsageError(f"There is no store on {other}. {_KINDS}")


def _with_folder(path: Path) -> Path:
    """The path of a SQLite file, its folder made."""
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be a database: {error.strerror}. {_KINDS}") from None
    return path


_KINDS = "Give a path such as fastchat.db, or postgresql://user:password@host/name."


def _shown(text: str) -> str:
    """A URL without what may be a password."""
    return repr(text.split("@")[-1])


def _make_private(dialect: object, record: object, arguments: list[Any], more: object) -> None:
    """Makes a new SQLite file, which its owner alone may read; SQLite's own files beside it
    take after it."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    # Under a lock: closing a file ends the locks that this process holds on it (POSIX).
    with _making_files, contextlib.suppress(OSError):  # it is there, or SQLite will tell why not
        os.close(os.open(arguments[0], flags, 0o600))


def _configure_sqlite(connection: sqlite3.Connection, record: object) -> None:
    """WAL lets readers go on beside the writer; FULL has a commit on the disk when it returns."""
    connection.isolation_level = None  # transactions are ours
    switch_to_wal(connection, wait_s=BUSY_S)
    cursor = connection.cursor()
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _configure_postgresql(connection: Any, record: object) -> None:
    """A statement waits for others' locks as long as SQLite's would, not without end."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{BUSY_S}s'")
    connection.commit()


def _begin_sqlite(connection: sa.Connection) -> None:
    """A writer takes its lock at once: one that began by reading could no longer wait for it."""
    writes = connection.get_execution_options().get("fastchat_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextlib.contextmanager
def _told() -> Generator[None]:
    """Turns the database's failures into ours; a refused constraint stays what it is."""
    try:
        yield
    except IntegrityError:
        raise
    except DataError as error:  # PostgreSQL takes no NUL in a text, SQLite does
        raise UsageError("A text of the request cannot be stored or looked for.") from error
    except (DBAPIError, PoolTimeout, OSError) as error:
        raise StoreError(
            "The store cannot be used at this moment (locked, full or gone); nothing was saved. "
            "Try again shortly."
        ) from error
