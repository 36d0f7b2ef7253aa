"""What the doors remember: in the platform's database, or for the life of the process.

Opened at the first use, in a thread, and only then is SQLAlchemy loaded. Without a database's
URL a file in a folder of its own is used, which is deleted at the end.
"""

import tempfile
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastchat.store.batches import BatchStore
    from fastchat.store.database import Database
    from fastchat.store.files import FileStore
    from fastchat.store.responses import ResponseStore


class DoorStores:
    """The stores of a gateway's doors; each method raises StoreError where they cannot be used.

    Args:
        url: of the database; None remembers for the life of the process.
    """

    def __init__(self, url: str | None) -> None:
        self.is_lasting = url is not None
        self._url = url
        self._lock = threading.Lock()  # guards the opening of what follows
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._database: Database | None = None
        self._responses: ResponseStore | None = None
        self._files: FileStore | None = None
        self._batches: BatchStore | None = None

    def responses(self) -> "ResponseStore":
        """Stored responses."""
        from fastchat.store.responses import ResponseStore

        with self._lock:
            if self._responses is None:
                self._responses = ResponseStore(self._opened())
            return self._responses

    def files(self) -> "FileStore":
        """Uploaded files, and those that batches leave."""
        from fastchat.store.files import FileStore

        with self._lock:
            if self._files is None:
                self._files = FileStore(self._opened())
            return self._files

    def batches(self) -> "BatchStore":
        """Batches and their answers."""
        from fastchat.store.batches import BatchStore

        with self._lock:
            if self._batches is None:
                self._batches = BatchStore(self._opened())
            return self._batches

    def close(self) -> None:
        """Closes the database; deletes it where it was the process's own."""
        with self._lock:
            if self._database is not None:
                self._database.close()
            if self._folder is not None:
                self._folder.cleanup()
            self._database = self._folder = None
            self._responses = self._files = self._batches = None

    def _opened(self) -> "Database":
        from fastchat.store.database import Database

        if self._database is None:
            url = self._url
            if url is None:
                self._folder = tempfile.TemporaryDirectory(prefix="fastchat-doors-")
                url = f"{self._folder.name}/doors.db"
            self._database = Database(url)
        return self._database
