"""The board of the Copilot Arena: JSON at an address that the operator names, shown as a table."""

import html
from collections.abc import Mapping
from typing import Any

from fastchat.errors import DataError

MOST_BYTES = 4 << 20
"""Bytes of a board that are read."""
TIMEOUT_S = 10.0
UNAVAILABLE = "The board of the Copilot Arena cannot be had at this moment."


def copilot_html(url: str) -> str:
    """The board at `url` as a table, or a sentence that says that it cannot be had."""
    try:
        return table_of(_fetched(url))
    except DataError:
        return f"<p>{UNAVAILABLE}</p>"


def check_address(url: str) -> None:
    """Raises DataError for what is no address of the web."""
    if not url.startswith(("https://", "http://")):
        raise DataError(f"COPILOT_ARENA_LEADERBOARD_URL {url!r} is no http address.")


def _fetched(url: str) -> bytes:
    """What stands at the address.

    Raises:
        DataError: nothing that can be read does.
    """
    import httpx2

    held = bytearray()
    try:
        with httpx2.stream("GET", url, timeout=TIMEOUT_S) as reply:
            reply.raise_for_status()
            for piece in reply.iter_bytes():
                held += piece
                if len(held) > MOST_BYTES:
                    raise DataError("the board is too long.")
    except (httpx2.HTTPError, httpx2.InvalidURL):
        raise DataError("the board's server did not answer.") from None
    return bytes(held)


def table_of(data: bytes) -> str:
    """Rows of JSON as a table: a list of objects, or an object that holds one.

    Raises:
        DataError: there is no such list.
    """
    import orjson

    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise DataError("the board is no JSON.") from None
    rows = _rows_in(value)
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{_cell(row.get(name))}</td>' for name in names)}</tr>" for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div style="overflow-x:auto">{table}</div>'


def _rows_in(value: Any) -> list[Mapping[str, Any]]:
    """The list of objects that is the value, or its first one."""
    found = [value, *value.values()] if isinstance(value, dict) else [value]
    for each in found:
        if isinstance(each, list) and each and all(isinstance(row, dict) for row in each):
            return each
    raise DataError("the board holds no rows.")


def _cell(value: Any) -> str:
    shown = "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
    return html.escape(shown)
