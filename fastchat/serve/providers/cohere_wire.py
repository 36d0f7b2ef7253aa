"""Cohere's chat, version 2 (docs.cohere.com/reference/chat)."""

from typing import Any

from fastchat.errors import ProviderError, UsageError
from fastchat.serve.providers.answers import Answer, whole_call
from fastchat.serve.providers.ask import ChatAsk, Image, Turn, read_ask, refuse
from fastchat.serve.providers.endpoint_file import Entry
from fastchat.serve.providers.wire import WireRequest, numbers, payloads, unused

FINISH = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
}
FAILURES = frozenset({"ERROR", "TIMEOUT"})

_NUMBERS = {
    "temperature": "temperature",
    "top_p": "p",
    "top_k": "k",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
_USED = {*_NUMBERS, "max_tokens", "max_completion_tokens", "stop", "tools", "tool_choice"}
_USED |= {"response_format"}


class CohereWire:
    """Chat."""

    def request(self, entry: Entry, path: str, body: dict[str, Any]) -> WireRequest:
        if path != "/v1/chat/completions":
            raise UsageError(f"The provider of {entry.name!r} answers chat only.")
        refuse(body, ["logprobs", "logit_bias", "top_logprobs"], "Cohere")
        ask = read_ask(body)
        value = _value(ask, body) | {"model": entry.model}
        reader = CohereReader(Answer(entry.name, with_usage=ask.wants_usage))
        return WireRequest(
            route="/v2/chat", value=value, reader=reader, ignored=unused(body, _USED)
        )


def _value(ask: ChatAsk, body: dict[str, Any]) -> dict[str, Any]:
    value = numbers(body, _NUMBERS)
    system = [{"role": "system", "content": ask.system}] if ask.system else []
    value["messages"] = system + [_message(turn) for turn in ask.turns]
    value["stream"] = ask.is_streamed
    if ask.max_tokens:
        value["max_tokens"] = ask.max_tokens
    if ask.stop:
        value["stop_sequences"] = ask.stop
    if ask.tools and ask.tool_choice.startswith("name:"):
        raise UsageError(
            "Cohere cannot be made to call one tool by name; give only that tool.",
            param="tool_choice",
        )
    if ask.tools:
        value["tools"] = body["tools"]
        if ask.tool_choice != "auto":
            value["tool_choice"] = ask.tool_choice.upper()
    form = body.get("response_format") or {}
    if form.get("type") in ("json_object", "json_schema"):
        schema = (form.get("json_schema") or {}).get("schema")
        value["response_format"] = {"type": "json_object"}
        if schema:
            value["response_format"]["json_schema"] = schema
    return value


def _message(turn: Turn) -> dict[str, Any]:
    if turn.role == "tool":
        return {"role": "tool", "tool_call_id": turn.call_id, "content": turn.text}
    message: dict[str, Any] = {"role": turn.role}
    if turn.parts:
        message["content"] = [_part(part) for part in turn.parts]
    if turn.calls:
        message["tool_calls"] = [whole_call(c.id, c.name, c.arguments) for c in turn.calls]
    return message


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    url = part.url or f"data:{part.media_type};base64,{part.data}"
    return {"type": "image_url", "image_url": {"url": url}}


class CohereReader:
    """Reads one reply."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._is_ended = False

    def whole(self, value: dict[str, Any]) -> dict[str, Any]:
        self._finish(value)
        message = value.get("message") or {}
        parts = message.get("content") or []
        text = "".join(p.get("text") or "" for p in parts if p.get("type") == "text")
        thoughts = "".join(p.get("thinking") or "" for p in parts if p.get("type") == "thinking")
        thoughts += message.get("tool_plan") or ""
        calls = [
            whole_call(call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or ()
        ]
        return self._answer.whole(text, reasoning=thoughts, calls=calls)

    def events(self, data: bytes) -> bytes:
        return b"".join([self._event(value) for value in payloads(data)])

    def end(self) -> bytes:
        if not self._is_ended:
            raise ProviderError("The provider's stream ended before the answer did.")
        return b""

    def _event(self, value: dict[str, Any]) -> bytes:
        answer = self._answer
        delta = value.get("delta") or {}
        message = delta.get("message") or {}
        match value.get("type"):
            case "content-delta":
                content = message.get("content") or {}
                return answer.reasoning(content.get("thinking") or "") + answer.text(
                    content.get("text") or ""
                )
            case "tool-plan-delta":
                return answer.reasoning(message.get("tool_plan") or "")
            case "tool-call-start":
                call = message.get("tool_calls") or {}
                function = call.get("function") or {}
                name = str(function.get("name"))
                return answer.call(str(call.get("id")), name, function.get("arguments") or "")
            case "tool-call-delta":
                function = (message.get("tool_calls") or {}).get("function") or {}
                return answer.arguments(function.get("arguments") or "")
            case "message-end":
                self._finish(delta)
                self._is_ended = True
                return answer.end()
        return b""

    def _finish(self, value: dict[str, Any]) -> None:
        reason = value.get("finish_reason") or ""
        if reason in FAILURES:
            raise ProviderError(f"The provider failed while it answered ({reason}).")
        self._answer.finish_reason = FINISH.get(reason, "stop")
        usage = value.get("usage") or {}
        tokens = usage.get("tokens") or usage.get("billed_units") or {}
        self._answer.use(tokens.get("input_tokens"), tokens.get("output_tokens"))
