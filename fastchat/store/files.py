"""Files that clients upload, or that batches leave for them; in the database, in parts."""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from fastchat.errors import BodyTooLargeError
from fastchat.store.database import Database, metadata

PART_BYTES = 1 << 20
MAX_KEY_BYTES = 8 << 30
"""What the files of one key may hold together."""
UNFINISHED_S = 86400.0
"""After this an upload that was never finished is forgotten."""

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("key_id", sa.String(80), nullable=True),
    sa.Column("filename", sa.String(1024), nullable=False),
    sa.Column("purpose", sa.String(40), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("is_whole", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=True, index=True),
)
file_parts = sa.Table(
    "file_parts",
    metadata,
    sa.Column(
        "file_id",
        sa.String(80),
        sa.ForeignKey("files.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file without its content."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: float
    """Seconds since 1970."""
    expires_at: float | None


class FileStore:
    """Files by id. Each belongs to a key, and no other key sees it."""

    def __init__(
        self,
        database: Database,
        *,
        max_key_bytes: int = MAX_KEY_BYTES,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._max_key_bytes = max_key_bytes
        self._now = now
        database.create([files, file_parts])

    def write(
        self,
        parts: Iterator[bytes],
        *,
        filename: str,
        purpose: str,
        key_id: str | None,
        lasts_s: float | None = None,
    ) -> StoredFile:
        """Keeps a file, a part at a time; it is there when all of it is.

        Args:
            lasts_s: seconds after which it is forgotten; None keeps it.

        Raises:
            BodyTooLargeError: the key's files would hold more than they may.
        """
        now = self._now()
        file_id = f"file-{secrets.token_hex(16)}"
        row = {
            "id": file_id,
            "key_id": key_id,
            "filename": filename[:1024],
            "purpose": purpose,
            "bytes": 0,
            "is_whole": False,
            "created_at": now,
            "expires_at": now + UNFINISHED_S,
        }
        room = self._max_key_bytes - self._database.write(
            lambda connection: self._begin(connection, row)
        )
        size = 0
        try:
            for number, data in enumerate(parts):
                size += len(data)
                if size > room:
                    raise BodyTooLargeError(
                        f"The files of one key may hold {self._max_key_bytes} bytes together; "
                        "delete some first."
                    )
                part = {"file_id": file_id, "number": number, "data": data}
                statement = sa.insert(file_parts).values(part)
                self._database.write(lambda c, s=statement: c.execute(s))
        except BaseException:
            self._database.write(lambda c: c.execute(_deletion(file_id)))
            raise
        expires_at = None if lasts_s is None else now + lasts_s
        whole = {"is_whole": True, "bytes": size, "expires_at": expires_at}
        statement = sa.update(files).where(files.c.id == file_id).values(whole)
        self._database.write(lambda c: c.execute(statement))
        return StoredFile(
            id=file_id,
            filename=filename[:1024],
            purpose=purpose,
            bytes=size,
            created_at=now,
            expires_at=expires_at,
        )

    def get(self, file_id: str, *, key_id: str | None) -> StoredFile | None:
        """The file, if there is one that this key may see."""
        wanted = sa.and_(files.c.id == file_id, *self._seen(key_id))
        statement = sa.select(files).where(wanted)
        row = self._database.read(lambda c: c.execute(statement).one_or_none())
        return None if row is None else _file(row)

    def page(
        self,
        *,
        key_id: str | None,
        limit: int,
        newest_first: bool = True,
        after: str | None = None,
        purpose: str | None = None,
    ) -> tuple[list[StoredFile], bool]:
        """Files of a key after the file `after`, and whether there are more.

        Raises:
            KeyError: the key has no file `after`.
        """
        place = sa.tuple_(files.c.created_at, files.c.id)
        wanted = self._seen(key_id)
        if purpose is not None:
            wanted.append(files.c.purpose == purpose)
        if after is not None:
            last = self.get(after, key_id=key_id)
            if last is None:
                raise KeyError(after)
            edge = sa.tuple_(sa.literal(last.created_at), sa.literal(last.id))
            wanted.append(place < edge if newest_first else place > edge)
        columns = (files.c.created_at, files.c.id)
        order = [c.desc() if newest_first else c.asc() for c in columns]
        statement = sa.select(files).where(*wanted).order_by(*order).limit(limit + 1)
        rows = self._database.read(lambda c: c.execute(statement).all())
        return [_file(row) for row in rows[:limit]], len(rows) > limit

    def part(self, file_id: str, number: int) -> bytes | None:
        """One part of a file's content; None after the last."""
        wanted = sa.and_(file_parts.c.file_id == file_id, file_parts.c.number == number)
        statement = sa.select(file_parts.c.data).where(wanted)
        return self._database.read(lambda c: c.execute(statement).scalar_one_or_none())

    def delete(self, file_id: str, *, key_id: str | None) -> bool:
        """Forgets a file; false if this key sees none."""
        statement = sa.delete(files).where(files.c.id == file_id, *self._seen(key_id))
        return self._database.write(lambda c: c.execute(statement).rowcount) > 0

    def _begin(self, connection: sa.Connection, row: dict[str, object]) -> int:
        """Adds an empty file; gives the bytes of the key's others."""
        connection.execute(sa.delete(files).where(files.c.expires_at <= self._now()))
        held = sa.select(sa.func.coalesce(sa.func.sum(files.c.bytes), 0))
        held = held.where(files.c.key_id.is_not_distinct_from(row["key_id"]))
        size = int(connection.execute(held).scalar_one())
        connection.execute(sa.insert(files).values(row))
        return size

    def _seen(self, key_id: str | None) -> list[sa.ColumnElement[bool]]:
        """Whole files of a key that have not expired."""
        return [
            files.c.key_id.is_not_distinct_from(key_id),
            files.c.is_whole,
            sa.or_(files.c.expires_at.is_(None), files.c.expires_at > self._now()),
        ]


def _deletion(file_id: str) -> sa.Delete:
    return sa.delete(files).where(files.c.id == file_id)


def _file(row: sa.Row[tuple[object, ...]]) -> StoredFile:
    return StoredFile(
        id=row.id,
        filename=row.filename,
        purpose=row.purpose,
        bytes=row.bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
