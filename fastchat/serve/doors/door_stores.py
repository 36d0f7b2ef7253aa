"""What the doors remember: in the platform's database, or for the life of the process.

Opened at the first use, in a thread. Without a database's URL a file in a folder of its own is
used, which is deleted at the end.
"""

import tempfile
import threading

from fastchat.store.database import Database
from fastchat.store.responses import RETENTION_S, ResponseStore


class DoorStores:
    """The stores of a gateway's doors.

    Args:
        url: of the database; None remembers for the life of the process.
        retention_s: how long responses are kept.
    """

    def __init__(self, url: str | None, *, retention_s: float = RETENTION_S) -> None:
        self.is_lasting = url is not None
        self._url = url
        self._retention_s = retention_s
        self._lock = threading.Lock()  # guards the opening of what follows
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._database: Database | None = None
        self._responses: ResponseStore | None = None

    def responses(self) -> ResponseStore:
        """Stored responses.

        Raises:
            StoreError: the database cannot be used.
        """
        with self._lock:
            if self._responses is None:
                self._responses = ResponseStore(self._opened(), retention_s=self._retention_s)
            return self._responses

    def close(self) -> None:
        """Closes the database; deletes it where it was the process's own."""
        with self._lock:
            if self._database is not None:
                self._database.close()
            if self._folder is not None:
                self._folder.cleanup()
            self._database = self._folder = self._responses = None

    def _opened(self) -> Database:
        if self._database is None:
            url = self._url
            if url is None:
                self._folder = tempfile.TemporaryDirectory(prefix="fastchat-doors-")
                url = f"{self._folder.name}/doors.db"
            self._database = Database(url)
        return self._database
