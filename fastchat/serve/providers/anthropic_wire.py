"""Anthropic's messages API (docs.anthropic.com/en/api/messages), also as Vertex serves it."""

from typing import Any

import orjson

from fastchat.errors import ProviderError, UsageError
from fastchat.serve.providers.answers import Answer, whole_call
from fastchat.serve.providers.ask import ChatAsk, Image, Turn, merged, read_ask, refuse
from fastchat.serve.providers.endpoint_file import Entry
from fastchat.serve.providers.wire import WireRequest, numbers, payloads, unused

DEFAULT_MAX_TOKENS = 4096
"""The field is required there."""

FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_NUMBERS = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}
_USED = {*_NUMBERS, "max_tokens", "max_completion_tokens", "stop", "tools", "tool_choice"}
_USED |= {"parallel_tool_calls"}


class AnthropicWire:
    """Chat."""

    def request(self, entry: Entry, path: str, body: dict[str, Any]) -> WireRequest:
        if path != "/v1/chat/completions":
            raise UsageError(f"The provider of {entry.name!r} answers chat only.")
        refuse(body, ["logprobs", "logit_bias", "top_logprobs"], "Anthropic")
        if (body.get("response_format") or {}).get("type") not in (None, "text"):
            name = "response_format"
            raise UsageError(f"Anthropic does not support {name!r}; use a tool.", param=name)
        ask = read_ask(body)
        value = {**_value(ask, body), "model": entry.model, **entry.kind.fixed}
        route = "/v1/messages"
        if template := entry.kind.places.get("route"):
            verb = "streamRawPredict" if ask.is_streamed else "rawPredict"
            route = template.format_map({**entry.places, "model": entry.model, "verb": verb})
            del value["model"]
        used = set(_USED)
        if "temperature" in value and value.pop("top_p", 1) != 1:
            used.discard("top_p")  # newer models take one of the two
        reader = AnthropicReader(Answer(entry.name, with_usage=ask.wants_usage))
        return WireRequest(route=route, value=value, reader=reader, ignored=unused(body, used))


def _value(ask: ChatAsk, body: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = numbers(body, _NUMBERS)
    if isinstance(value.get("temperature"), int | float):
        value["temperature"] = min(value["temperature"], 1.0)
    value["max_tokens"] = ask.max_tokens or DEFAULT_MAX_TOKENS
    value["messages"] = [
        {
            "role": "assistant" if group[0].role == "assistant" else "user",
            "content": [block for turn in group for block in _blocks(turn)],
        }
        for group in merged(ask.turns)
    ]
    if ask.system:
        value["system"] = ask.system
    if ask.stop:
        value["stop_sequences"] = ask.stop
    if ask.is_streamed:
        value["stream"] = True
    if ask.tools:
        value["tools"] = [
            {"name": t.name, "description": t.description, "input_schema": t.parameters}
            for t in ask.tools
        ]
        value["tool_choice"] = _choice(ask.tool_choice)
        if body.get("parallel_tool_calls") is False and ask.tool_choice != "none":
            value["tool_choice"]["disable_parallel_tool_use"] = True
    return value


def _choice(choice: str) -> dict[str, Any]:
    if choice.startswith("name:"):
        return {"type": "tool", "name": choice.removeprefix("name:")}
    return {"type": {"required": "any"}.get(choice, choice)}


def _blocks(turn: Turn) -> list[dict[str, Any]]:
    if turn.role == "tool":
        return [{"type": "tool_result", "tool_use_id": turn.call_id, "content": turn.text}]
    blocks = [_block(part) for part in turn.parts]
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.values()}
        for call in turn.calls
    ]
    return blocks or [{"type": "text", "text": " "}]  # an empty message is refused there


def _block(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.url:
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    source = {"type": "base64", "media_type": part.media_type, "data": part.data}
    return {"type": "image", "source": source}


class AnthropicReader:
    """Reads one reply."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._is_ended = False

    def whole(self, value: dict[str, Any]) -> dict[str, Any]:
        answer = self._answer
        blocks = value.get("content") or []
        answer.finish_reason = FINISH.get(value.get("stop_reason") or "", "stop")
        self._use(value.get("usage") or {})
        calls = [
            whole_call(b["id"], b["name"], orjson.dumps(b.get("input") or {}).decode())
            for b in blocks
            if b.get("type") == "tool_use"
        ]
        text = "".join(b.get("text", "") for b in blocks if b.get("type") == "text")
        thoughts = "".join(b.get("thinking", "") for b in blocks if b.get("type") == "thinking")
        return answer.whole(text, reasoning=thoughts, calls=calls)

    def events(self, data: bytes) -> bytes:
        return b"".join([self._event(value) for value in payloads(data)])

    def end(self) -> bytes:
        if not self._is_ended:
            raise ProviderError("The provider's stream ended before the answer did.")
        return b""

    def _event(self, value: dict[str, Any]) -> bytes:
        answer = self._answer
        match value.get("type"):
            case "message_start":
                self._use((value.get("message") or {}).get("usage") or {})
            case "content_block_start":
                block = value.get("content_block") or {}
                if block.get("type") == "tool_use":
                    return answer.call(str(block.get("id")), str(block.get("name")))
                return answer.text(block.get("text") or "")
            case "content_block_delta":
                return self._delta(value.get("delta") or {})
            case "message_delta":
                reason = (value.get("delta") or {}).get("stop_reason") or ""
                answer.finish_reason = FINISH.get(reason, "stop")
                self._use(value.get("usage") or {})
            case "message_stop":
                self._is_ended = True
                return answer.end()
            case "error":
                kind = (value.get("error") or {}).get("type")
                raise ProviderError(f"The provider failed while it answered ({kind}).")
        return b""

    def _delta(self, delta: dict[str, Any]) -> bytes:
        match delta.get("type"):
            case "text_delta":
                return self._answer.text(delta.get("text") or "")
            case "thinking_delta":
                return self._answer.reasoning(delta.get("thinking") or "")
            case "input_json_delta":
                return self._answer.arguments(delta.get("partial_json") or "")
        return b""

    def _use(self, usage: dict[str, Any]) -> None:
        cached = usage.get("cache_read_input_tokens") or 0
        prompt = usage.get("input_tokens")
        if prompt is not None:
            prompt += cached + (usage.get("cache_creation_input_tokens") or 0)
            self._answer.use(prompt, None, cached)
        self._answer.use(None, usage.get("output_tokens"))
