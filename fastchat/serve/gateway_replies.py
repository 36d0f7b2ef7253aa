"""What the gateway answers itself: whole JSON replies, errors among them."""

from collections.abc import Sequence

import orjson
from starlette.types import Send

from fastchat.errors import FastChatError, MethodNotAllowedError, UnavailableError
from fastchat.protocol.errors import error_body
from fastchat.serve.connection import Headers


def no_endpoint(model: str, reason: FastChatError | None = None) -> UnavailableError:
    """What a client is told when nobody serves a known model now."""
    why = " (the last one tried did not answer)" if reason else ""
    return UnavailableError(f"No endpoint for {shown_name(model)} is up now{why}; try again soon.")


def shown_name(model: str) -> str:
    """A model's name as an error message may repeat it."""
    return repr(model if len(model) <= 100 else f"{model[:100]}...")


async def send_error(send: Send, error: FastChatError) -> int:
    """Sends the reply to a request that failed; gives its status."""
    headers: Headers = []
    if error.retry_after_s:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if isinstance(error, MethodNotAllowedError) and error.allow:
        headers.append((b"allow", error.allow.encode()))
    return await send_json(send, error_body(error), error.status, headers=headers)


async def send_json(
    send: Send, value: object, status: int = 200, *, headers: Sequence[tuple[bytes, bytes]] = ()
) -> int:
    """Sends a JSON reply; gives its status."""
    kind = (b"content-type", b"application/json")
    await send_whole(send, status, [kind, *headers], orjson.dumps(value))
    return status


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Sends a reply whose body is there."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
