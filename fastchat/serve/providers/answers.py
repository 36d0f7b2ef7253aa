"""Answers in OpenAI's form, made of what other protocols say: whole, and as events."""

import time
from collections.abc import Sequence
from typing import Any

import orjson

from fastchat.protocol.openai_replies import new_id, usage_fields

DONE = b"data: [DONE]\n\n"
PIECE_LENGTH = 16
"""Characters of the pieces in which a whole answer is streamed."""


class Answer:
    """One answer on its way to the client.

    Args:
        model: the name it has here.
        with_usage: streams end with an event of their use.
    """

    def __init__(self, model: str, *, with_usage: bool) -> None:
        self.id = new_id("chatcmpl")
        self.model = model
        self.with_usage = with_usage
        self.finish_reason: str | None = None
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.is_told = False
        """The provider has said what was used."""
        self._created = int(time.time())
        self._has_begun = False
        self._n_calls = 0

    def use(self, prompt: Any, completion: Any, cached: Any = None) -> None:
        """Notes what was used, where the provider says it."""
        for name, value in (
            ("prompt_tokens", prompt),
            ("completion_tokens", completion),
            ("cached_tokens", cached),
        ):
            if isinstance(value, int | float) and value >= 0:
                setattr(self, name, int(value))
                self.is_told = True

    # ---- as events

    def text(self, text: str) -> bytes:
        return self._delta({"content": text}) if text else b""

    def reasoning(self, text: str) -> bytes:
        return self._delta({"reasoning_content": text}) if text else b""

    def call(self, call_id: str, name: str, arguments: str = "") -> bytes:
        """The beginning of the next tool call."""
        function = {"name": name, "arguments": arguments}
        call = {"index": self._n_calls, "id": call_id, "type": "function", "function": function}
        self._n_calls += 1
        return self._delta({"tool_calls": [call]})

    def arguments(self, text: str) -> bytes:
        """More of the last call's arguments."""
        call = {"index": max(0, self._n_calls - 1), "function": {"arguments": text}}
        return self._delta({"tool_calls": [call]}) if text else b""

    def end(self) -> bytes:
        """The events that end the stream."""
        choice = {"index": 0, "delta": {}, "finish_reason": self.finish_reason or "stop"}
        data = self._begin() + self._event([choice])
        if self.with_usage and self.is_told:
            data += self._event([], usage=self.usage())
        return data + DONE

    def usage(self) -> dict[str, Any]:
        return usage_fields(
            prompt=self.prompt_tokens, completion=self.completion_tokens, cached=self.cached_tokens
        )

    def _delta(self, delta: dict[str, Any]) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        return self._begin() + self._event([choice])

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        delta = {"role": "assistant", "content": ""}
        return self._event([{"index": 0, "delta": delta, "finish_reason": None}])

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        value = self._head("chat.completion.chunk") | {"choices": choices} | more
        return b"data: " + orjson.dumps(value) + b"\n\n"

    # ---- whole

    def whole(
        self, text: str, *, reasoning: str = "", calls: Sequence[dict[str, Any]] = ()
    ) -> dict[str, Any]:
        """The answer as one reply."""
        message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
        if not calls:
            message["content"] = text
        else:
            message["tool_calls"] = list(calls)
        if reasoning:
            message["reasoning_content"] = reasoning
        reason = self.finish_reason or "stop"
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        told = {"usage": self.usage()} if self.is_told else {}
        return self._head("chat.completion") | {"choices": [choice]} | told

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self._created, "model": self.model}


def whole_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call of a whole reply."""
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def as_events(reply: dict[str, Any], *, with_usage: bool) -> bytes:
    """A whole reply in OpenAI's form as the events of a stream."""
    head = {name: reply.get(name) for name in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk"
    events: list[bytes] = []

    def add(index: int, delta: dict[str, Any], reason: str | None = None) -> None:
        choice = {"index": index, "delta": delta, "finish_reason": reason}
        events.append(b"data: " + orjson.dumps(head | {"choices": [choice]}) + b"\n\n")

    for choice in reply.get("choices") or ():
        index, message = choice.get("index", 0), choice.get("message") or {}
        add(index, {"role": "assistant", "content": ""})
        if reasoning := message.get("reasoning_content"):
            add(index, {"reasoning_content": reasoning})
        text = message.get("content") or ""
        for start in range(0, len(text), PIECE_LENGTH):
            add(index, {"content": text[start : start + PIECE_LENGTH]})
        for i, call in enumerate(message.get("tool_calls") or ()):
            add(index, {"tool_calls": [{"index": i, **call}]})
        add(index, {}, choice.get("finish_reason") or "stop")
    if with_usage and reply.get("usage"):
        value = head | {"choices": [], "usage": reply["usage"]}
        events.append(b"data: " + orjson.dumps(value) + b"\n\n")
    return b"".join([*events, DONE])
