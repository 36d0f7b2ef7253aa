"""A leaderboard that others publish as JSON, shown as the table that it is.

The published name of the address is COPILOT_ARENA_LEADERBOARD_URL. The layout is theirs: a list of
objects, or an object that holds one; whatever its fields are, they become the columns.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from fastchat.errors import DataError, UnavailableError, UsageError
from fastchat.web.board_tables import rows_html

KEPT_S = 300.0
TIMEOUT_S = 5.0
LARGEST_BYTES = 4 * 1024 * 1024
MOST_ROWS = 1000


def check_address(url: str) -> None:
    """
    Raises:
        UsageError: `url` is neither empty nor an address of the web.
    """
    if url and not url.startswith(("https://", "http://")):
        raise UsageError(f"COPILOT_ARENA_LEADERBOARD_URL {url!r} is no http address.")


class ForeignBoard:
    """The table behind an address, asked for at most every five minutes."""

    def __init__(self, url: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._now = now
        self._lock = threading.Lock()  # one request at a time, however many readers look
        self._shown = ""
        self._asked_at = float("-inf")

    def html(self) -> str:
        """The table; the last one while the server is away.

        Raises:
            UnavailableError: it does not answer, and never has.
            DataError: what it answers is no table.
        """
        with self._lock:
            if self._now() - self._asked_at >= KEPT_S:
                try:
                    self._shown = table_of(self._ask())
                except (UnavailableError, DataError):
                    if not self._shown:
                        raise
                self._asked_at = self._now()
            return self._shown

    def _ask(self) -> Any:
        import httpx2

        try:
            with (
                httpx2.Client(timeout=TIMEOUT_S) as http,
                http.stream("GET", self._url) as reply,
            ):
                reply.raise_for_status()
                body = bytearray()
                for part in reply.iter_bytes():
                    body += part
                    if len(body) > LARGEST_BYTES:
                        raise DataError("The foreign leaderboard is too large to be shown.")
        except httpx2.HTTPError as error:
            raise UnavailableError("The foreign leaderboard does not answer.") from error
        return _parsed(bytes(body))


def _parsed(body: bytes) -> Any:
    import orjson

    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise DataError("The foreign leaderboard is no JSON.") from None


def table_of(value: Any) -> str:
    """The first list of objects in `value` as a table.

    Raises:
        DataError: there is none.
    """
    lists = [value, *(value.values() if isinstance(value, Mapping) else ())]
    for rows in lists:
        if isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows):
            return _html(rows[:MOST_ROWS])
    raise DataError("The foreign leaderboard holds no list of models.")


def _html(rows: list[Mapping[str, Any]]) -> str:
    head = list(dict.fromkeys(str(name) for row in rows for name in row))
    return rows_html(head, [[_text(row.get(name)) for name in head] for row in rows])


def _text(value: Any) -> str:
    if value is None or isinstance(value, list | dict):
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
