"""Replies of Anthropic's Messages API: a message and its events, out of the pieces of a chat."""

import secrets
from collections.abc import Iterator
from typing import Any

import orjson

from fastchat.errors import FastChatError
from fastchat.protocol.anthropic_api import ERROR_TYPES
from fastchat.protocol.chat_pieces import (
    CallPiece,
    EndPiece,
    Piece,
    ReasoningPiece,
    RefusalPiece,
    TextPiece,
    UsagePiece,
)

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}

Event = dict[str, Any]


class MessageBuilder:
    """Grows a message from pieces, and tells each step as the published events.

    Args:
        model: as the client named it.
        shows_thinking: false leaves the model's thinking out.
    """

    def __init__(self, model: str, *, shows_thinking: bool) -> None:
        self._shows_thinking = shows_thinking
        self._open: str | int | None = None
        """What the last block is: `text`, `thinking`, or the index of a tool call."""
        self._json = ""
        self._usage = UsagePiece()
        self.message: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": 0,
                "output_tokens": 0,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
            },
        }

    def begin(self) -> Iterator[Event]:
        """The events before anything was said."""
        yield {"type": "message_start", "message": self.message}
        yield {"type": "ping"}

    def add(self, piece: Piece) -> Iterator[Event]:
        """The events of one piece."""
        match piece:
            case TextPiece(text=text) | RefusalPiece(text=text):
                if text:
                    yield from self._grow("text", text)
            case ReasoningPiece(text=text):
                if self._shows_thinking:
                    yield from self._grow("thinking", text)
            case CallPiece():
                yield from self._call(piece)
            case EndPiece():
                reason = STOP_REASONS.get(piece.reason, "end_turn")
                is_named = piece.stop is not None and reason == "end_turn"
                self.message["stop_reason"] = "stop_sequence" if is_named else reason
                self.message["stop_sequence"] = piece.stop if is_named else None
            case UsagePiece():
                self._usage = piece

    def end(self) -> Iterator[Event]:
        """The events after the last piece; the message is whole then."""
        yield from self._close()
        message = self.message
        has_calls = any(block["type"] == "tool_use" for block in message["content"])
        if message["stop_reason"] in (None, "end_turn"):
            message["stop_reason"] = "tool_use" if has_calls else "end_turn"
        usage = self._usage
        message["usage"] |= {
            # Anthropic counts what was read from a cache apart from the rest.
            "input_tokens": max(usage.prompt - usage.cached, 0),
            "cache_read_input_tokens": usage.cached,
            "output_tokens": usage.completion,
        }
        delta = {name: message[name] for name in ("stop_reason", "stop_sequence")}
        yield {"type": "message_delta", "delta": delta, "usage": message["usage"]}
        yield {"type": "message_stop"}

    # ---- blocks

    @property
    def _index(self) -> int:
        return len(self.message["content"]) - 1

    def _grow(self, kind: str, text: str) -> Iterator[Event]:
        if self._open != kind:
            block = {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})
            yield from self._begin(kind, block)
        self.message["content"][-1][kind] += text
        yield self._delta({"type": f"{kind}_delta", kind: text})

    def _call(self, piece: CallPiece) -> Iterator[Event]:
        if self._open != piece.index:
            block = {
                "type": "tool_use",
                "id": piece.id or f"toolu_{secrets.token_hex(12)}",
                "name": piece.name or "",
                "input": {},
            }
            yield from self._begin(piece.index, block)
        if piece.arguments:
            self._json += piece.arguments
            yield self._delta({"type": "input_json_delta", "partial_json": piece.arguments})

    def _begin(self, kind: str | int, block: dict[str, Any]) -> Iterator[Event]:
        yield from self._close()
        self._open = kind
        self.message["content"].append(block)
        yield {"type": "content_block_start", "index": self._index, "content_block": dict(block)}

    def _delta(self, delta: dict[str, Any]) -> Event:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _close(self) -> Iterator[Event]:
        if self._open is None:
            return
        if isinstance(self._open, int):
            self.message["content"][-1]["input"] = _parsed(self._json)
            self._json = ""
        self._open = None
        yield {"type": "content_block_stop", "index": self._index}


def _parsed(arguments: str) -> dict[str, Any]:
    """The input of a tool; arguments that were cut off in the middle are nothing."""
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def event_bytes(event: Event) -> bytes:
    """An event as it is sent."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))


def anthropic_error(error: FastChatError, request_id: str | None = None) -> dict[str, Any]:
    """The body of an error in Anthropic's shape."""
    told = {"type": ERROR_TYPES.get(error.status, "api_error"), "message": error.message}
    return {"type": "error", "error": told, "request_id": request_id}
