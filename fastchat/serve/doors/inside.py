"""Requests that a door makes to the gateway's own routes, without a socket.

They go the way of a client's request: same routing, same limits, same second try. What the
caller may do is taken from the request that came in, or from a key's id for work that goes on
after it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import orjson
from starlette.types import Message, Receive, Scope, Send

from fastchat.errors import FastChatError, UnavailableError
from fastchat.protocol.chat_pieces import (
    EventReader,
    Piece,
    error_from_reply,
    pieces_of_event,
    pieces_of_reply,
)
from fastchat.serve.asgi import json_body

Route = Callable[[Scope, Receive, Send], Awaitable[int]]

KEY_ID = "fastchat.key_id"
"""Where the gateway's key check leaves the id of the caller's key; None without keys."""

FORWARD_TO = "fastchat.forward_to"
"""In a scope from inside: the request goes to this route of an endpoint, past any door."""

COUNTED = (
    "model",
    "messages",
    "tools",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
)
"""The fields of a chat that its prompt is made of."""

QUEUED_PARTS = 8
REPLY_LIMIT_BYTES = 256 << 20


class Reply:
    """A reply on its way: its head at once, its body as it comes. To be closed."""

    def __init__(self, route: Route, scope: Scope, body: bytes) -> None:
        self.status = 0
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        self._body: bytes | None = body
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUED_PARTS)
        self._error: Exception | None = None
        self._has_head = asyncio.Event()
        self._task = asyncio.create_task(self._run(route, scope))

    async def head(self) -> None:
        """Returns when status and headers are there.

        Raises:
            FastChatError: the route refused the request.
        """
        await self._has_head.wait()
        if not self.status and self._error is not None:
            raise self._error

    async def parts(self) -> AsyncGenerator[bytes]:
        """The body, piece by piece."""
        while (part := await self._parts.get()) is not None:
            yield part
        if self._error is not None:
            raise self._error

    async def whole(self) -> bytes:
        """The whole body."""
        parts: list[bytes] = []
        size = 0
        async with aclosing(self.parts()) as source:
            async for part in source:
                size += len(part)
                if size > REPLY_LIMIT_BYTES:
                    raise UnavailableError("The model's reply is too large.")
                parts.append(part)
        return b"".join(parts)

    async def json(self) -> Any:
        """The body as a value; None when it is not JSON."""
        try:
            return orjson.loads(await self.whole())
        except orjson.JSONDecodeError:
            return None

    async def failure(self) -> FastChatError:
        """The error that a reply with an error status tells."""
        error = error_from_reply(self.status, await self.json())
        for name, value in self.headers:
            if name == b"retry-after" and value.isdigit():
                error.retry_after_s = int(value)
        return error

    def kept_headers(self) -> dict[str, str]:
        """The headers that concern the client of a door as well."""
        return {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in self.headers
            if name.startswith((b"x-ratelimit-", b"x-fastchat-")) or name == b"x-request-id"
        }

    async def close(self) -> None:
        """Ends the request, and the work behind it, if it is still under way."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # ---- the route's side

    async def _run(self, route: Route, scope: Scope) -> None:
        try:
            await route(scope, self._receive, self._send)
        except Exception as error:
            self._error = error
        self._has_head.set()
        await self._parts.put(None)

    async def _receive(self) -> Message:
        if self._body is None:
            await asyncio.Event().wait()  # the door ends by `close`, which cancels this
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = message["headers"]
            self._has_head.set()
        elif part := message.get("body", b""):
            await self._parts.put(part)


class Inside:
    """The gateway's own routes, for its doors."""

    def __init__(self, route: Route) -> None:
        self._route = route

    async def post(self, caller: Scope, path: str, value: Any) -> Reply:
        """The reply to a JSON body, once its head is there; the receiver closes it.

        Args:
            caller: the scope of the request on whose behalf this one is made, or `acting_for`.

        Raises:
            FastChatError: the route refused the request.
            UsageError: the value is nested too deeply.
        """
        headers = [(b"content-type", b"application/json")]
        scope = {
            **caller,
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
        }
        reply = Reply(self._route, scope, json_body(value))
        try:
            await reply.head()
        except BaseException:
            await reply.close()
            raise
        return reply

    async def forward(self, caller: Scope, path: str, value: Any) -> Reply:
        """The reply of the model's endpoint on this route of its own; the receiver closes it.

        Raises:
            FastChatError: no endpoint could be asked.
        """
        return await self.post({**caller, FORWARD_TO: path}, path, value)

    async def count(self, caller: Scope, prompt: dict[str, Any]) -> tuple[int, dict[str, str]]:
        """The tokens of a prompt, by the model's own tokenizer and template; and the headers of
        the reply that concern the client.

        Args:
            prompt: what a prompt is made of, as a chat's body holds it.

        Raises:
            FastChatError: the request was refused.
            UnavailableError: the model's endpoint cannot count.
        """
        counted = {name: prompt[name] for name in COUNTED if name in prompt}
        if prompt.get("tool_choice") == "none":
            counted.pop("tools", None)  # the model is not told of them
        value, headers = await self.ask(caller, "/tokenize", counted)
        count = value.get("count") if isinstance(value, dict) else None
        if not isinstance(count, int):
            raise UnavailableError("This model's endpoint cannot count tokens.")
        return count, headers

    async def ask(
        self, caller: Scope, path: str, body: dict[str, Any]
    ) -> tuple[Any, dict[str, str]]:
        """The value of a whole reply, and the headers that concern the client.

        Raises:
            FastChatError: the request was refused.
        """
        reply = await self.post(caller, path, body)
        try:
            if reply.status != 200:
                raise await reply.failure()
            return await reply.json(), reply.kept_headers()
        finally:
            await reply.close()

    async def chat(self, caller: Scope, body: dict[str, Any]) -> "ChatReply":
        """The reply to a chat, streamed where `body` says so; the receiver closes it.

        Raises:
            FastChatError: the request failed before its first byte.
        """
        reply = await self.post(caller, "/v1/chat/completions", body)
        try:
            if reply.status != 200:
                raise await reply.failure()
        except BaseException:
            await reply.close()
            raise
        return ChatReply(reply)


class ChatReply:
    """A chat's reply as pieces."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.headers = reply.kept_headers()
        self.close = reply.close

    async def pieces(self) -> AsyncGenerator[Piece]:
        """Everything that was answered, as it comes.

        Raises:
            FastChatError: the stream failed after it began.
        """
        if not self._is_stream():
            value = await self._reply.json()
            for piece in pieces_of_reply(value if isinstance(value, dict) else {}):
                yield piece
            return
        reader = EventReader()
        async with aclosing(self._reply.parts()) as parts:
            async for part in parts:
                for name, data in reader.feed(part):
                    if data == b"[DONE]":
                        return
                    for piece in pieces_of_event(name, data):
                        yield piece

    def _is_stream(self) -> bool:
        kinds = [value for name, value in self._reply.headers if name == b"content-type"]
        return any(kind.startswith(b"text/event-stream") for kind in kinds)


def acting_for(caller: Scope) -> Scope:
    """A scope for work that goes on after the request `caller` that asked for it."""
    return {name: caller[name] for name in caller if name.startswith("fastchat.")}


def key_id(scope: Scope) -> str | None:
    """Whose objects a request may see; None where the server has no keys."""
    return scope.get(KEY_ID)
