"""The pieces of a model's answer as they come from its server.

The OpenAI client asks, and tells what went wrong; the events of the stream are read here. Its
typed objects for each piece were most of what a busy page computed (0.1 ms each); reading them
plainly takes a fifth of that.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import orjson

from fastchat.message import Message
from fastchat.web.models import ModelDirectory

if TYPE_CHECKING:
    import httpx2

MIN_TOP_P = 0.01
"""Sent for 0, which many servers refuse; both mean: only the likeliest word."""
DONE = b"[DONE]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the answer is drawn."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A bit of an answer."""

    text: str
    reason: str | None
    """Why the answer ends with this piece, if it does: `stop`, `length`, ..."""


class Events:
    """The data of an event stream, from blocks of bytes that are cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def of(self, block: bytes) -> list[bytes]:
        """The data of each event that `block` completes."""
        *lines, self._rest = (self._rest + block).split(b"\n")
        found: list[bytes] = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                found.append(b"\n".join(self._data))
                self._data = []
        return found


async def pieces_of(
    directory: ModelDirectory, messages: tuple[Message, ...], model: str, sampling: Sampling
) -> AsyncIterator[Piece]:
    """The pieces of the model's answer. Closing the iterator closes the connection.

    Raises:
        openai.APIError, httpx2.HTTPError: the server refuses, breaks off or is not there.
        UnavailableError: nobody serves the model.
    """
    client = await directory.client_for(model)
    asking = client.chat.completions.with_streaming_response.create(
        model=model,
        messages=[as_sent(m) for m in answered(messages)],  # type: ignore[misc]  # roles are checked by Message
        temperature=sampling.temperature,
        top_p=max(sampling.top_p, MIN_TOP_P),
        max_tokens=sampling.max_tokens,
        stream=True,
    )
    async with asking as reply:
        events, is_done = Events(), False
        async for block in reply.http_response.aiter_bytes():
            for data in [] if is_done else events.of(block):
                if data == DONE:
                    is_done = True  # what follows is read, so that the connection can be kept
                    break
                if (piece := piece_of(data, reply.http_request)) is not None:
                    yield piece


def piece_of(data: bytes, request: "httpx2.Request") -> Piece | None:
    """What one event says; None where it says nothing of the first choice.

    Raises:
        openai.APIError: it tells of a failure.
        ValueError: it is no JSON.
    """
    event = orjson.loads(data)
    if not isinstance(event, dict):
        return None
    if error := event.get("error"):
        import openai

        said = error.get("message") if isinstance(error, dict) else None
        message = said if isinstance(said, str) and said else "The answer broke off"
        raise openai.APIError(message, request, body=error)
    choice = next(iter(event.get("choices") or ()), None)
    if not isinstance(choice, dict):
        return None
    text, reason = (choice.get("delta") or {}).get("content"), choice.get("finish_reason")
    return Piece(
        text=text if isinstance(text, str) else "",
        reason=reason if isinstance(reason, str) else None,
    )


def as_sent(message: Message) -> dict[str, Any]:
    """The message as the OpenAI API wants it."""
    if not message.images:
        return {"role": message.role, "content": message.text}
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in message.images]
    return {"role": message.role, "content": [{"type": "text", "text": message.text}, *pictures]}


def answered(messages: tuple[Message, ...]) -> list[Message]:
    """What the model is told: every question that was answered, with its answer, and the last.

    A question whose answer failed stays on the page, but two questions in a row are no
    conversation that a model was trained on.
    """
    kept = [
        message
        for message, following in pairwise(messages)
        if message.role != "user" or following.role != "user"
    ]
    return [*kept, *messages[-1:]]
