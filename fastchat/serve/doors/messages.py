"""Anthropic's Messages API in front of any model: `/v1/messages` and its token counter."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from fastchat.protocol.anthropic_api import (
    CountTokensRequest,
    MessagesRequest,
    chat_body,
    prompt_body,
)
from fastchat.protocol.anthropic_replies import MessageBuilder, anthropic_error, event_bytes
from fastchat.serve.asgi import EventStream, json_response, told, unless_gone
from fastchat.serve.doors.body import checked_body, with_chats
from fastchat.serve.doors.door import Door
from fastchat.serve.doors.inside import ChatReply, Inside
from fastchat.serve.doors.telling import events_of, tell_unless_gone


class MessagesDoors:
    """Answers messages by the chats of the gateway."""

    def __init__(self, inside: Inside, *, limit_bytes: int) -> None:
        self._inside = inside
        self._limit_bytes = limit_bytes

    def doors(self) -> list[Door]:
        beta = frozenset({"beta"})  # how their client marks what may change; all is the same here
        handlers = {"/v1/messages": self._create, "/v1/messages/count_tokens": self._count}
        return [
            Door(method="POST", path=path, handler=handler, failure=failure, query=beta)
            for path, handler in handlers.items()
        ]

    async def _create(self, request: Request) -> Response:
        body, headers = await checked_body(request, MessagesRequest, self._limit_bytes)
        asked = chat_body(body)
        chat = await unless_gone(request, self._inside.chat(request.scope, asked))
        headers = with_chats(headers, chat.headers) | _request_id()
        builder = MessageBuilder(body.model, shows_thinking=body.shows_thinking)
        if body.stream:
            events = _events(chat, builder)
            return EventStream(events, headers=headers, failure=_last_event, keepalive=PING)
        await tell_unless_gone(request, chat, builder)
        return json_response(builder.message, headers=headers)

    async def _count(self, request: Request) -> Response:
        body, headers = await checked_body(request, CountTokensRequest, self._limit_bytes)
        asked = prompt_body(body)
        count, more = await unless_gone(request, self._inside.count(request.scope, asked))
        headers = with_chats(headers, more) | _request_id()
        return json_response({"input_tokens": count}, headers=headers)


PING = event_bytes({"type": "ping"})


def failure(error: BaseException) -> Response:
    """The reply to a request that failed before its first byte, in Anthropic's shape."""
    shown = told(error)
    headers = _request_id()
    if shown.retry_after_s:
        headers["retry-after"] = str(shown.retry_after_s)
    body = anthropic_error(shown, headers["request-id"])
    return json_response(body, shown.status, headers)


def _last_event(error: BaseException) -> bytes:
    """The event that ends a stream which failed after it began."""
    return event_bytes(anthropic_error(told(error, "stream failed")))


async def _events(chat: ChatReply, builder: MessageBuilder) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(events_of(chat, builder, event_bytes)) as events:
            async for made in events:
                yield made
        yield b"".join(map(event_bytes, builder.end()))
    finally:
        await chat.close()


def _request_id() -> dict[str, str]:
    return {"request-id": f"req_{secrets.token_hex(12)}"}
