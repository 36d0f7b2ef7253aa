"""Reading the body of a door's request, and naming what of it has no meaning."""

import re
from collections.abc import Iterable
from typing import TypeVar

from starlette.requests import Request

from fastchat.protocol.openai_api import Body, ignored_fields, parse
from fastchat.serve.asgi import parse_json_object, read_body

B = TypeVar("B", bound=Body)

MAX_NAMED_FIELDS = 16
IGNORED = "x-fastchat-ignored"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


async def checked_body(
    request: Request, kind: type[B], limit_bytes: int
) -> tuple[B, dict[str, str]]:
    """The checked body, and the header that names those of its fields that have no meaning.

    Raises:
        UsageError: what was sent is no such body.
    """
    fields = parse_json_object(await read_body(request, limit_bytes))
    body = parse(kind, fields)
    return body, naming(ignored_fields(kind, fields))


def naming(ignored: Iterable[str]) -> dict[str, str]:
    """The header that names fields without meaning; none where there are none to be named."""
    named = [name for name in ignored if _NAME.fullmatch(name)][:MAX_NAMED_FIELDS]
    return {IGNORED: ", ".join(named)} if named else {}


def with_chats(headers: dict[str, str], chats: dict[str, str]) -> dict[str, str]:
    """The headers of a door's reply, with those of the chat that it asked."""
    ignored = [h[IGNORED] for h in (headers, chats) if IGNORED in h]
    return {**headers, **chats, **({IGNORED: ", ".join(ignored)} if ignored else {})}
