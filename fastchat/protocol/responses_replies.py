"""Replies of OpenAI's Responses API: a response and its events, out of the pieces of a chat."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from fastchat.errors import BusyError, FastChatError, RateLimitError
from fastchat.protocol.chat_pieces import (
    CallPiece,
    EndPiece,
    Piece,
    ReasoningPiece,
    RefusalPiece,
    TextPiece,
    UsagePiece,
)
from fastchat.protocol.responses_api import ResponsesRequest, new_id

Event = dict[str, Any]

LIVE = ("queued", "in_progress")
"""States of a response that is still to end."""
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_FIELDS = {"output_text": "text", "reasoning_text": "text", "refusal": "refusal"}
"""Where each kind of part has its text."""


class ResponseBuilder:
    """Grows a response from pieces, and tells each step as the published events."""

    def __init__(self, request: ResponsesRequest, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._sequence = 0
        self._open: str | int | None = None
        """What the last item is: `message`, `reasoning`, or the index of a call."""
        self._part: dict[str, Any] | None = None
        """The part of that item which is growing."""
        self._reason = "stop"
        self.response: dict[str, Any] = {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(now()),
            "status": "in_progress",
            "background": request.background,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": request.max_tool_calls,
            "metadata": request.metadata,
            "model": request.model,
            "output": [],
            "parallel_tool_calls": request.parallel_tool_calls,
            "previous_response_id": request.previous_response_id,
            "reasoning": {
                "effort": request.reasoning.effort if request.reasoning else None,
                "summary": None,
            },
            "store": request.store,
            "temperature": request.temperature,
            "text": request.text.model_dump(by_alias=True, exclude_none=True),
            "tool_choice": request.tool_choice,
            "tools": [{"parameters": None, "strict": None, **tool} for tool in request.tools],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": request.top_p,
            "truncation": request.truncation,
            "usage": None,
            "user": request.user,
        }

    def begin(self) -> Iterator[Event]:
        """The events before anything was said."""
        yield self._event("response.created", response=self.response)
        yield self._event("response.in_progress", response=self.response)

    def add(self, piece: Piece) -> Iterator[Event]:
        """The events of one piece."""
        match piece:
            case TextPiece():
                yield from self._grow("message", "output_text", piece.text, piece.logprobs)
            case RefusalPiece():
                yield from self._grow("message", "refusal", piece.text)
            case ReasoningPiece():
                yield from self._grow("reasoning", "reasoning_text", piece.text)
            case CallPiece():
                yield from self._call(piece)
            case EndPiece():
                self._reason = piece.reason
            case UsagePiece():
                self.response["usage"] = _usage(piece)

    def end(self) -> Iterator[Event]:
        """The events after the last piece; the response is whole then."""
        why = INCOMPLETE.get(self._reason)
        status = "incomplete" if why else "completed"
        yield from self._close_item(status)
        self.response["status"] = status
        self.response["completed_at"] = None if why else int(self._now())
        self.response["incomplete_details"] = {"reason": why} if why else None
        yield self._event(f"response.{status}", response=self.response)

    def fail(self, error: FastChatError) -> Event:
        """The event that ends a stream which failed after it began."""
        self.response["status"] = "failed"
        self.response["error"] = failure(error)
        return self._event("response.failed", response=self.response)

    # ---- items and their parts

    @property
    def _item(self) -> dict[str, Any]:
        return self.response["output"][-1]

    @property
    def _where(self) -> dict[str, Any]:
        return {"item_id": self._item["id"], "output_index": len(self.response["output"]) - 1}

    @property
    def _where_part(self) -> dict[str, Any]:
        return {**self._where, "content_index": len(self._item["content"]) - 1}

    def _grow(
        self, kind: str, part: str, text: str, logprobs: tuple[dict[str, Any], ...] = ()
    ) -> Iterator[Event]:
        if not text and not logprobs:
            return
        if self._open != kind:
            yield from self._open_item(kind, _new_item(kind))
        if self._part is None or self._part["type"] != part:
            yield from self._close_part()
            self._part = _new_part(part)
            self._item["content"].append(self._part)
            yield self._event("response.content_part.added", **self._where_part, part=self._part)
        self._part[_FIELDS[part]] += text
        more: dict[str, Any] = {}
        if part == "output_text":
            more["logprobs"] = [_logprob(entry) for entry in logprobs]
            self._part["logprobs"] += more["logprobs"]
        yield self._event(f"response.{part}.delta", **self._where_part, delta=text, **more)

    def _call(self, piece: CallPiece) -> Iterator[Event]:
        if self._open != piece.index:
            item = {
                "type": "function_call",
                "id": new_id("fc"),
                "call_id": piece.id or new_id("call"),
                "name": piece.name or "",
                "arguments": "",
                "status": "in_progress",
            }
            yield from self._open_item(piece.index, item)
        if piece.arguments:
            self._item["arguments"] += piece.arguments
            kind = "response.function_call_arguments.delta"
            yield self._event(kind, **self._where, delta=piece.arguments)

    def _open_item(self, kind: str | int, item: dict[str, Any]) -> Iterator[Event]:
        yield from self._close_item("completed")
        self._open = kind
        self.response["output"].append(item)
        index = len(self.response["output"]) - 1
        yield self._event("response.output_item.added", output_index=index, item=item)

    def _close_item(self, status: str) -> Iterator[Event]:
        if self._open is None:
            return
        yield from self._close_part()
        item = self._item
        if item["type"] == "function_call":
            kind = "response.function_call_arguments.done"
            named = {"name": item["name"], "arguments": item["arguments"]}
            yield self._event(kind, **self._where, **named)
        item["status"] = status
        self._open = None
        index = len(self.response["output"]) - 1
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _close_part(self) -> Iterator[Event]:
        if self._part is None:
            return
        part, self._part = self._part, None
        name = _FIELDS[part["type"]]
        more = {"logprobs": part["logprobs"]} if part["type"] == "output_text" else {}
        told = {name: part[name], **more}
        yield self._event(f"response.{part['type']}.done", **self._where_part, **told)
        yield self._event("response.content_part.done", **self._where_part, part=part)

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event


def _new_item(kind: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {
            "type": "reasoning",
            "id": new_id("rs"),
            "summary": [],
            "content": [],
            "status": "in_progress",
        }
    return {
        "type": "message",
        "id": new_id("msg"),
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }


def _new_part(kind: str) -> dict[str, Any]:
    part: dict[str, Any] = {"type": kind, _FIELDS[kind]: ""}
    return part | ({"annotations": [], "logprobs": []} if kind == "output_text" else {})


def _logprob(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A token's log-probability as this API has it: the chat's, its alternatives likewise."""
    known = {name: entry.get(name) for name in ("token", "logprob", "bytes")}
    known["bytes"] = known["bytes"] or []
    top = entry.get("top_logprobs")
    return known if top is None else known | {"top_logprobs": [_logprob(other) for other in top]}


def _usage(piece: UsagePiece) -> dict[str, Any]:
    return {
        "input_tokens": piece.prompt,
        "input_tokens_details": {"cached_tokens": piece.cached, "cache_write_tokens": 0},
        "output_tokens": piece.completion,
        "output_tokens_details": {"reasoning_tokens": piece.reasoning},
        "total_tokens": piece.prompt + piece.completion,
    }


def failure(error: FastChatError) -> dict[str, Any]:
    """What a failed response tells of its error, in the codes of this API."""
    code = "server_error"
    if isinstance(error, RateLimitError | BusyError):
        code = "rate_limit_exceeded"
    elif error.status < 500:
        code = "invalid_prompt"
    return {"code": code, "message": error.message}


def event_bytes(event: Event) -> bytes:
    """An event as it is sent."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))
