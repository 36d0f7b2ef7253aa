"""Anthropic's Messages API in front of any model: `/v1/messages` and its token counter."""

import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from fastchat.errors import UnavailableError
from fastchat.protocol.anthropic_api import (
    CountTokensRequest,
    MessagesRequest,
    chat_body,
    prompt_body,
)
from fastchat.protocol.anthropic_replies import MessageBuilder, anthropic_error, event_bytes
from fastchat.protocol.errors import public_error
from fastchat.serve.asgi import EventStream, json_response, unless_gone
from fastchat.serve.doors.body import checked_body, with_chats
from fastchat.serve.doors.door import Door
from fastchat.serve.doors.inside import ChatReply, Inside

log = logging.getLogger(__name__)


class MessagesDoors:
    """Answers messages by the chats of the gateway."""

    def __init__(self, inside: Inside, *, limit_bytes: int) -> None:
        self._inside = inside
        self._limit_bytes = limit_bytes

    def doors(self) -> list[Door]:
        create, count = self._create, self._count
        return [
            Door(method="POST", path="/v1/messages", handler=create, failure=failure),
            Door(method="POST", path="/v1/messages/count_tokens", handler=count, failure=failure),
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
        try:
            await unless_gone(request, _whole(chat, builder))
        finally:
            await chat.close()
        return json_response(builder.message, headers=headers)

    async def _count(self, request: Request) -> Response:
        body, headers = await checked_body(request, CountTokensRequest, self._limit_bytes)
        asked = prompt_body(body)
        reply = await unless_gone(request, self._inside.post(request.scope, "/tokenize", asked))
        try:
            if reply.status != 200:
                raise await reply.failure()
            value = await reply.json()
        finally:
            await reply.close()
        count = value.get("count") if isinstance(value, dict) else None
        if not isinstance(count, int):
            raise UnavailableError("This model's endpoint cannot count tokens.")
        return json_response({"input_tokens": count}, headers=headers | _request_id())


PING = event_bytes({"type": "ping"})


def failure(error: BaseException) -> Response:
    """The reply to a request that failed before its first byte, in Anthropic's shape."""
    shown = public_error(error)
    if shown is not error:
        log.error("request failed", exc_info=error)
    headers = _request_id()
    if shown.retry_after_s:
        headers["retry-after"] = str(shown.retry_after_s)
    body = anthropic_error(shown, headers["request-id"])
    return json_response(body, shown.status, headers)


def _last_event(error: BaseException) -> bytes:
    """The event that ends a stream which failed after it began."""
    shown = public_error(error)
    if shown is not error:
        log.error("stream failed", exc_info=error)
    return event_bytes(anthropic_error(shown))


async def _events(chat: ChatReply, builder: MessageBuilder) -> AsyncGenerator[bytes]:
    try:
        for event in builder.begin():
            yield event_bytes(event)
        async with aclosing(chat.pieces()) as pieces:
            async for piece in pieces:
                if made := b"".join(map(event_bytes, builder.add(piece))):
                    yield made
        yield b"".join(map(event_bytes, builder.end()))
    finally:
        await chat.close()


async def _whole(chat: ChatReply, builder: MessageBuilder) -> None:
    async with aclosing(chat.pieces()) as pieces:
        async for piece in pieces:
            list(builder.add(piece))
    list(builder.end())


def _request_id() -> dict[str, str]:
    return {"request-id": f"req_{secrets.token_hex(12)}"}
