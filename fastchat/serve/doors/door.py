"""What a door is: a method, a path, who answers it, and how its failures look."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fastchat.errors import FastChatError, MethodNotAllowedError
from fastchat.serve.asgi import error_response
from fastchat.serve.doors.body import naming, with_chats

Handler = Callable[[Request], Awaitable[Response]]
Failure = Callable[[BaseException], Response]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One route. `{name}` in the path stands for one step of it, given as a path parameter."""

    method: str
    path: str
    handler: Handler
    failure: Failure = error_response
    """Makes the reply of an error, in the shape of the route's protocol."""
    query: frozenset[str] = frozenset()
    """Parameters of the address that are read; others are named as fields without meaning are."""
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        steps = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]{1,256})", re.escape(self.path))
        object.__setattr__(self, "pattern", re.compile(steps))


class DoorTable:
    """The doors of a gateway by path and method."""

    def __init__(self, doors: Sequence[Door]) -> None:
        self.doors = tuple(doors)
        self._plain = {door.path for door in doors if "{" not in door.path}
        self._firsts = {door.path.split("{")[0] for door in doors if "{" in door.path}

    def at(self, path: str) -> list[tuple[Door, dict[str, str]]]:
        """The doors of a path, one for each method, with what stands in its places."""
        if path in self._plain:
            return [(door, {}) for door in self.doors if door.path == path]
        if not any(path.startswith(first) for first in self._firsts):
            return []
        found = [(door, door.pattern.fullmatch(path)) for door in self.doors]
        return [(door, match.groupdict()) for door, match in found if match]


async def open_door(
    found: Sequence[tuple[Door, dict[str, str]]], scope: Scope, receive: Receive, send: Send
) -> int:
    """Answers a request by the door of its method; gives the status."""
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    for door, places in found:
        if door.method == method:
            return await _answer(door, {**scope, "path_params": places}, receive, send)
    methods = sorted({door.method for door, _ in found})
    error = MethodNotAllowedError(f"This route takes {' or '.join(methods)}.")
    response = found[0][0].failure(error)
    response.headers["allow"] = ", ".join(methods)
    await response(scope, receive, send)
    return response.status_code


async def _answer(door: Door, scope: Scope, receive: Receive, send: Send) -> int:
    request = Request(scope, receive)
    try:
        response = await door.handler(request)
    except ClientDisconnect:
        return 499
    except Exception as error:
        response = door.failure(error)
    if scope["query_string"]:
        ignored = naming(sorted(request.query_params.keys() - door.query))
        response.headers.update(with_chats(ignored, dict(response.headers)))
    await response(scope, receive, send)
    return response.status_code


async def send_failure(
    found: Sequence[tuple[Door, dict[str, str]]], error: FastChatError, send: Send
) -> int:
    """Answers what failed before a door was opened, in its protocol's shape."""
    response = found[0][0].failure(error)
    await send(
        {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        }
    )
    await send({"type": "http.response.body", "body": bytes(response.body)})
    return response.status_code
