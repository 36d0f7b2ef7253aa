"""What a chat endpoint answers, as pieces; whole replies and streams give the same ones.

The translations to other protocols (messages, responses) read these, so that each of them is
written once. Also reads server-sent events, and errors back into ours.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from fastchat.errors import FastChatError, UnavailableError, UsageError


@dataclass(frozen=True, slots=True)
class TextPiece:
    """New text of the answer, with its log-probabilities in the chat form where asked for."""

    text: str
    logprobs: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class RefusalPiece:
    """New text of a refusal."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPiece:
    """New text of what the model thought before it answered."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """The start of a tool call, or more of its arguments."""

    index: int
    """Which of the answer's calls."""
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class EndPiece:
    """Why the answer ended."""

    reason: str
    """OpenAI's word: stop, length, tool_calls, content_filter."""
    stop: str | None = None
    """The stop string that was met, from endpoints that tell."""


@dataclass(frozen=True, slots=True)
class UsagePiece:
    """Tokens that the answer took."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


Piece = TextPiece | RefusalPiece | ReasoningPiece | CallPiece | EndPiece | UsagePiece


def pieces_of_reply(reply: Mapping[str, Any]) -> Iterator[Piece]:
    """The pieces of a whole reply, in the order a stream would send them.

    Raises:
        UnavailableError: it is no chat reply.
    """
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise UnavailableError("The model's endpoint answered something that is no chat reply.")
    yield from _of_choice(choices[0], "message")
    yield from _of_usage(reply.get("usage"))


def pieces_of_chunk(chunk: Mapping[str, Any]) -> Iterator[Piece]:
    """The pieces of one event of a stream; choices but the first are not looked at."""
    for choice in chunk.get("choices") or ():
        if isinstance(choice, Mapping) and choice.get("index", 0) == 0:
            yield from _of_choice(choice, "delta")
    yield from _of_usage(chunk.get("usage"))


def _of_choice(choice: Mapping[str, Any], field: str) -> Iterator[Piece]:
    said = choice.get(field) or {}
    if thought := said.get("reasoning_content") or said.get("reasoning"):
        yield ReasoningPiece(str(thought))
    logprobs = tuple((choice.get("logprobs") or {}).get("content") or ())
    if (text := said.get("content")) or logprobs:
        yield TextPiece(str(text or ""), logprobs)
    if refusal := said.get("refusal"):
        yield RefusalPiece(str(refusal))
    for place, call in enumerate(said.get("tool_calls") or ()):
        function = call.get("function") or {}
        yield CallPiece(
            index=call.get("index", place),
            id=call.get("id"),
            name=function.get("name"),
            arguments=function.get("arguments") or "",
        )
    if reason := choice.get("finish_reason"):
        stop = choice.get("stop_reason")
        yield EndPiece(str(reason), stop if isinstance(stop, str) else None)


def _of_usage(usage: Any) -> Iterator[UsagePiece]:
    if not isinstance(usage, Mapping):
        return
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    yield UsagePiece(
        prompt=usage.get("prompt_tokens") or 0,
        completion=usage.get("completion_tokens") or 0,
        cached=prompt.get("cached_tokens") or 0,
        reasoning=completion.get("reasoning_tokens") or 0,
    )


class EventReader:
    """Server-sent events out of bytes that come in any pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """The name and the data of each event that is complete by now; comments are dropped."""
        *events, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            name, parts = "message", list[bytes]()
            for line in event.split(b"\n"):
                field, _, value = line.partition(b":")
                if field == b"event":
                    name = value.strip().decode("utf-8", "replace")
                elif field == b"data":
                    parts.append(value.removeprefix(b" "))
            if parts:
                yield name, b"\n".join(parts)


def pieces_of_event(name: str, data: bytes) -> Iterator[Piece]:
    """The pieces of one event of a streamed chat.

    Raises:
        FastChatError: the event tells that the stream failed, or is none of a chat.
    """
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        chunk = None
    if not isinstance(chunk, Mapping):
        raise UnavailableError("The model's endpoint sent an event that is no JSON object.")
    if name == "error" or chunk.get("error"):
        raise error_from_reply(500, chunk)
    yield from pieces_of_chunk(chunk)


def error_from_reply(status: int, body: Any) -> FastChatError:
    """The error that an endpoint's reply tells, as one of ours with the same status and code."""
    told = body.get("error") if isinstance(body, Mapping) else None
    told = told if isinstance(told, Mapping) else {}
    kinds = list(_kinds(FastChatError))
    named = [kind for kind in kinds if kind.code == told.get("code")]
    alike = [kind for kind in kinds if kind.status == status]
    general = UsageError if 400 <= status < 500 else FastChatError
    kind = next(iter([k for k in named if k in alike] or named or alike), general)
    message, param = told.get("message"), told.get("param")
    return kind(
        message if isinstance(message, str) and message else "The model's endpoint failed.",
        param=param if isinstance(param, str) else None,
    )


def _kinds(kind: type[FastChatError]) -> Iterator[type[FastChatError]]:
    """`kind` and what is derived from it, the general ones first; those of this package only."""
    yield kind
    for inner in kind.__subclasses__():
        if inner.__module__ == FastChatError.__module__:
            yield from _kinds(inner)
