"""Replies of the OpenAI API as bytes.

A stream sends thousands of pieces a second on one core, so all of an event but its text is
made once per stream and choice.
"""

import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from fastchat.message import ToolCall
from fastchat.protocol.chat_pieces import CallPiece, ReasoningPiece, TextPiece

Part = TextPiece | ReasoningPiece | CallPiece

_LOWEST_LOGPROB = -9999.0
"""OpenAI's way to write minus infinity, which JSON cannot."""
_LONGEST_CHARACTER = 4
"""Characters that tokens which are only parts of one may have put between two whole tokens."""


class Logprob(Protocol):
    """One token with its log-probability, as engines report it."""

    @property
    def token(self) -> str: ...
    @property
    def logprob(self) -> float | None: ...
    @property
    def top(self) -> Sequence[tuple[str, int, float]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyHead:
    """What all events or the one body of a reply share."""

    id: str
    object: str
    model: str
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))

    def fields(self, object: str | None = None) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": object or self.object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def new_id(prefix: str) -> str:
    """`chatcmpl-…`, unlike all others; no secret."""
    return f"{prefix}-{random.getrandbits(128):032x}"


def usage_fields(
    *, prompt: int, completion: int, cached: int = 0, reasoning: int | None = None
) -> dict[str, Any]:
    """`reasoning`: tokens of the completion; None where a model is not known to reason."""
    fields: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    if reasoning is not None:
        fields["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return fields


def chat_logprobs(tokens: Sequence[Logprob]) -> dict[str, Any]:
    """The chat form: one object per token."""
    return {
        "content": [
            _chat_token(t.token, t.logprob)
            | {"top_logprobs": [_chat_token(text, value) for text, _, value in t.top]}
            for t in tokens
        ],
        "refusal": None,
    }


def _chat_token(token: str, logprob: float | None) -> dict[str, Any]:
    return {"token": token, "logprob": _finite(logprob), "bytes": list(token.encode())}


def legacy_logprobs(
    tokens: Sequence[Logprob], text: str, *, offset: int = 0, with_top: bool = True
) -> dict[str, Any]:
    """The completions form: parallel lists.

    Args:
        text: what the tokens spell. A special token, or a part of a character, is not in it.
        offset: characters of this choice before `text`.
        with_top: false where no alternatives were asked for.
    """
    offsets: list[int] = []
    place = 0
    for t in tokens:
        found = text.find(t.token, place, place + len(t.token) + _LONGEST_CHARACTER)
        offsets.append(offset + max(place, found))
        place = place if found < 0 else found + len(t.token)
    return {
        "tokens": [t.token for t in tokens],
        "token_logprobs": [_finite(t.logprob) for t in tokens],
        "top_logprobs": [_legacy_top(t) for t in tokens] if with_top else None,
        "text_offset": offsets,
    }


def _legacy_top(token: Logprob) -> dict[str, float | None] | None:
    """Best first; nothing predicts the first token of a prompt."""
    if token.logprob is None:
        return None
    return {text: _finite(value) for text, _, value in reversed(token.top)}


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, _LOWEST_LOGPROB)


class ChatStream:
    """Events of a streamed chat."""

    def __init__(self, head: ReplyHead, *, with_usage: bool) -> None:
        self._shape = _Shape(head, "chat.completion.chunk", with_usage=with_usage)
        self._pieces: dict[int, bytes] = {}
        self._tail = b'},"logprobs":null,"finish_reason":null}' + self._shape.tail

    def start(self, index: int) -> bytes:
        return self._shape.event(index, {"delta": {"role": "assistant", "content": ""}})

    def piece(self, index: int, text: str, logprobs: Sequence[Logprob] | None = None) -> bytes:
        if logprobs is not None:
            values = {"delta": {"content": text}, "logprobs": chat_logprobs(logprobs)}
            return self._shape.event(index, values)
        head = self._pieces.get(index)
        if head is None:
            head = self._shape.head + b'{"index":%d,"delta":{"content":' % index
            self._pieces[index] = head
        return head + orjson.dumps(text) + self._tail

    def part(self, index: int, part: Part, logprobs: Sequence[Logprob] | None = None) -> bytes:
        """A piece of the text, of the reasoning, or of a tool call."""
        if isinstance(part, TextPiece):
            return self.piece(index, part.text, logprobs)
        values = {} if logprobs is None else {"logprobs": chat_logprobs(logprobs)}
        return self._shape.event(index, {"delta": _delta(part), **values})

    def finish(self, index: int, reason: str, stop: str | None = None) -> bytes:
        return self._shape.event(index, {"delta": {}, **_stop(stop)}, reason)

    def usage(self, usage: dict[str, Any]) -> bytes:
        return self._shape.usage(usage)


class CompletionStream:
    """Events of a streamed completion."""

    def __init__(self, head: ReplyHead, *, with_usage: bool, with_top: bool) -> None:
        self._shape = _Shape(head, "text_completion", with_usage=with_usage)
        self._with_top = with_top
        self._pieces: dict[int, bytes] = {}
        self._offsets: dict[int, int] = {}
        self._tail = b',"logprobs":null,"finish_reason":null}' + self._shape.tail

    def start(self, index: int) -> bytes:
        return b""

    def piece(self, index: int, text: str, logprobs: Sequence[Logprob] | None = None) -> bytes:
        if logprobs is not None:
            offset = self._offsets.get(index, 0)
            self._offsets[index] = offset + len(text)
            lists = legacy_logprobs(logprobs, text, offset=offset, with_top=self._with_top)
            return self._shape.event(index, {"text": text, "logprobs": lists})
        head = self._pieces.get(index)
        if head is None:
            head = self._shape.head + b'{"index":%d,"text":' % index
            self._pieces[index] = head
        return head + orjson.dumps(text) + self._tail

    def part(self, index: int, part: Part, logprobs: Sequence[Logprob] | None = None) -> bytes:
        """A completion is text alone."""
        assert isinstance(part, TextPiece)
        return self.piece(index, part.text, logprobs)

    def finish(self, index: int, reason: str, stop: str | None = None) -> bytes:
        return self._shape.event(index, {"text": "", **_stop(stop)}, reason)

    def usage(self, usage: dict[str, Any]) -> bytes:
        return self._shape.usage(usage)


class _Shape:
    """The parts of an event that do not change within a stream."""

    def __init__(self, head: ReplyHead, object: str, *, with_usage: bool) -> None:
        self._fields = head.fields(object)
        opened = orjson.dumps(self._fields)[:-1]
        self.head = b"data: " + opened + b',"choices":['
        # With `include_usage` every event has the field, and it is null but in the last.
        self.tail = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"

    def event(self, index: int, values: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": index, "logprobs": None, "finish_reason": reason} | values
        return self.head + orjson.dumps(choice) + self.tail

    def usage(self, usage: dict[str, Any]) -> bytes:
        return b"data: " + orjson.dumps(self._fields | {"choices": [], "usage": usage}) + b"\n\n"


def _delta(part: ReasoningPiece | CallPiece) -> dict[str, Any]:
    """The new part of a message, under the names that clients look for."""
    if isinstance(part, ReasoningPiece):
        return _reasoning(part.text)
    if part.name is None:
        call = {"index": part.index, "function": {"arguments": part.arguments}}
    else:
        function = {"name": part.name, "arguments": part.arguments}
        call = {"index": part.index, "id": part.id, "type": "function", "function": function}
    return {"tool_calls": [call]}


def _reasoning(text: str) -> dict[str, str]:
    return {"reasoning_content": text, "reasoning": text}


def chat_choice(
    index: int,
    text: str,
    reason: str,
    logprobs: Sequence[Logprob] | None,
    *,
    reasoning: str = "",
    calls: Sequence[ToolCall] = (),
    stop: str | None = None,
) -> dict[str, Any]:
    """One choice of a whole reply; beside calls, a message without text has null."""
    message: dict[str, Any] = {"role": "assistant", "content": text or None if calls else text}
    message["refusal"] = None
    if reasoning:
        message |= _reasoning(reasoning)
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return {
        "index": index,
        "message": message,
        "logprobs": None if logprobs is None else chat_logprobs(logprobs),
        "finish_reason": reason,
        **_stop(stop),
    }


def completion_choice(
    index: int, text: str, reason: str, logprobs: dict[str, Any] | None, stop: str | None = None
) -> dict[str, Any]:
    choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
    return choice | _stop(stop)


def _stop(stop: str | None) -> dict[str, Any]:
    """Which stop string was met, as vLLM tells it; nothing where none was."""
    return {} if stop is None else {"stop_reason": stop}


def model_card(name: str, *, created: int, root: str, context_length: int | None) -> dict[str, Any]:
    """An entry of `/v1/models`, with the context length under the two names clients look for."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "fastchat",
        "root": root,
        "parent": None,
        "permission": [_permission(name, created)],
        "context_length": context_length,
        "max_model_len": context_length,
    }


def _permission(name: str, created: int) -> dict[str, Any]:
    allowed = ("allow_sampling", "allow_logprobs", "allow_view")
    refused = ("allow_create_engine", "allow_search_indices", "allow_fine_tuning", "is_blocking")
    return {
        "id": f"modelperm-{uuid.uuid5(uuid.NAMESPACE_OID, name).hex}",
        "object": "model_permission",
        "created": created,
        **dict.fromkeys(allowed, True),
        **dict.fromkeys(refused, False),
        "organization": "*",
        "group": None,
    }
