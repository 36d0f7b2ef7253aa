"""How a chat's pieces become the reply of a door's protocol, whole or as events."""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any, Protocol

from starlette.requests import Request

from fastchat.protocol.chat_pieces import Piece
from fastchat.serve.asgi import unless_gone
from fastchat.serve.doors.inside import ChatReply

Event = dict[str, Any]


class Builder(Protocol):
    """Builds a reply of one protocol, and the events that tell it."""

    def begin(self) -> Iterable[Event]: ...

    def add(self, piece: Piece) -> Iterable[Event]: ...

    def end(self) -> Iterable[Event]: ...


async def tell_whole(chat: ChatReply, builder: Builder) -> None:
    """Builds the whole reply, and closes the chat.

    Raises:
        FastChatError: the chat failed.
    """
    try:
        async with aclosing(chat.pieces()) as pieces:
            async for piece in pieces:
                list(builder.add(piece))
        list(builder.end())
    finally:
        await chat.close()


async def tell_unless_gone(request: Request, chat: ChatReply, builder: Builder) -> None:
    """`tell_whole`, ended when the client leaves."""
    try:
        await unless_gone(request, tell_whole(chat, builder))
    finally:
        await chat.close()  # it may have left before the telling began


async def events_of(
    chat: ChatReply, builder: Builder, write: Callable[[Event], bytes]
) -> AsyncGenerator[bytes]:
    """The events from the first to the one before the end, as they come."""
    for event in builder.begin():
        yield write(event)
    async with aclosing(chat.pieces()) as pieces:
        async for piece in pieces:
            if made := b"".join(map(write, builder.add(piece))):
                yield made
