"""Google's generateContent (ai.google.dev/api/generate-content), also as Vertex serves it."""

from typing import Any

import orjson

from fastchat.errors import ProviderError, UsageError
from fastchat.protocol.openai_replies import new_id
from fastchat.serve.providers.answers import Answer, whole_call
from fastchat.serve.providers.ask import ChatAsk, Image, Turn, merged, read_ask, refuse
from fastchat.serve.providers.endpoint_file import Entry
from fastchat.serve.providers.wire import WireRequest, numbers, payloads, unused

FINISH = {"STOP": "stop", "MAX_TOKENS": "length"}
"""Every other reason is one for which an answer was withheld."""
FAILURES = frozenset({"MALFORMED_FUNCTION_CALL", "OTHER", "UNEXPECTED_TOOL_CALL"})

_NUMBERS = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_USED = {*_NUMBERS, "max_tokens", "max_completion_tokens", "stop", "tools", "tool_choice"}
_USED |= {"response_format"}
_HARMS = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")


class GeminiWire:
    """Chat."""

    def request(self, entry: Entry, path: str, body: dict[str, Any]) -> WireRequest:
        if path != "/v1/chat/completions":
            raise UsageError(f"The provider of {entry.name!r} answers chat only.")
        refuse(body, ["logprobs", "logit_bias", "top_logprobs"], "Gemini")
        ask = read_ask(body)
        is_streamed = ask.is_streamed and entry.kind.streams
        verb = "streamGenerateContent?alt=sse" if is_streamed else "generateContent"
        template = entry.kind.places.get("route", "/v1beta/models/{model}:{verb}")
        route = template.format_map({**entry.places, "model": entry.model, "verb": verb})
        reader = GeminiReader(Answer(entry.name, with_usage=ask.wants_usage))
        return WireRequest(
            route=route, value=_value(ask, body), reader=reader, ignored=unused(body, _USED)
        )


def _value(ask: ChatAsk, body: dict[str, Any]) -> dict[str, Any]:
    names = {call.id: call.name for turn in ask.turns for call in turn.calls}
    value: dict[str, Any] = {
        "contents": [
            {
                "role": "model" if group[0].role == "assistant" else "user",
                "parts": [part for turn in group for part in _turn_parts(turn, names)],
            }
            for group in merged(ask.turns)
        ],
        # As published: what is shown is decided here, not there.
        "safetySettings": [
            {"category": f"HARM_CATEGORY_{harm}", "threshold": "OFF"} for harm in _HARMS
        ],
    }
    if ask.system:
        value["systemInstruction"] = {"parts": [{"text": ask.system}]}
    if ask.tools:
        functions = [
            {"name": t.name, "description": t.description, "parametersJsonSchema": t.parameters}
            for t in ask.tools
        ]
        value["tools"] = [{"functionDeclarations": functions}]
        value["toolConfig"] = {"functionCallingConfig": _choice(ask.tool_choice)}
    if config := _config(ask, body):
        value["generationConfig"] = config
    return value


def _config(ask: ChatAsk, body: dict[str, Any]) -> dict[str, Any]:
    config = numbers(body, _NUMBERS)
    if ask.max_tokens:
        config["maxOutputTokens"] = ask.max_tokens
    if ask.stop:
        config["stopSequences"] = ask.stop
    form = body.get("response_format") or {}
    if form.get("type") in ("json_object", "json_schema"):
        config["responseMimeType"] = "application/json"
    if schema := (form.get("json_schema") or {}).get("schema"):
        config["responseJsonSchema"] = schema
    return config


def _choice(choice: str) -> dict[str, Any]:
    if choice.startswith("name:"):
        return {"mode": "ANY", "allowedFunctionNames": [choice.removeprefix("name:")]}
    return {"mode": {"auto": "AUTO", "none": "NONE", "required": "ANY"}[choice]}


def _turn_parts(turn: Turn, names: dict[str, str]) -> list[dict[str, Any]]:
    if turn.role == "tool":
        name = names.get(turn.call_id)
        if name is None:
            raise UsageError("'messages' answers a tool call that was not made.", param="messages")
        return [{"functionResponse": {"name": name, "response": {"result": turn.text}}}]
    parts = [_part(part) for part in turn.parts]
    parts += [{"functionCall": {"name": call.name, "args": call.values()}} for call in turn.calls]
    return parts or [{"text": ""}]


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"text": part}
    if part.url:
        raise UsageError("Gemini takes images as data URLs only.", param="messages")
    return {"inlineData": {"mimeType": part.media_type, "data": part.data}}


class GeminiReader:
    """Reads one reply."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._has_calls = False

    def whole(self, value: dict[str, Any]) -> dict[str, Any]:
        text, thoughts, calls = "", "", []
        for part in self._parts(value):
            if call := part.get("functionCall"):
                calls.append(whole_call(new_id("call"), str(call.get("name")), _arguments(call)))
            elif part.get("thought"):
                thoughts += part.get("text") or ""
            else:
                text += part.get("text") or ""
        return self._answer.whole(text, reasoning=thoughts, calls=calls)

    def events(self, data: bytes) -> bytes:
        return b"".join([self._event(value) for value in payloads(data)])

    def end(self) -> bytes:
        if self._answer.finish_reason is None:
            raise ProviderError("The provider's stream ended before the answer did.")
        return self._answer.end()

    def _event(self, value: dict[str, Any]) -> bytes:
        if isinstance(value.get("error"), dict):
            status = value["error"].get("status")
            raise ProviderError(f"The provider failed while it answered ({status}).")
        answer = self._answer
        data = b""
        for part in self._parts(value):
            if call := part.get("functionCall"):
                data += answer.call(new_id("call"), str(call.get("name")), _arguments(call))
            elif part.get("thought"):
                data += answer.reasoning(part.get("text") or "")
            else:
                data += answer.text(part.get("text") or "")
        return data

    def _parts(self, value: dict[str, Any]) -> list[dict[str, Any]]:
        """The parts of the first candidate; notes why it ended, and what was used."""
        answer = self._answer
        usage = value.get("usageMetadata") or {}
        completion = usage.get("candidatesTokenCount")
        thoughts = usage.get("thoughtsTokenCount") or 0
        if completion is not None or thoughts:
            completion = (completion or 0) + thoughts
        prompt = usage.get("promptTokenCount")
        answer.use(prompt, completion, usage.get("cachedContentTokenCount"))
        candidates = value.get("candidates") or []
        if not candidates:
            if (value.get("promptFeedback") or {}).get("blockReason"):
                answer.finish_reason = "content_filter"
            return []
        candidate = candidates[0]
        parts = (candidate.get("content") or {}).get("parts") or []
        self._has_calls = self._has_calls or any("functionCall" in part for part in parts)
        reason = candidate.get("finishReason")
        if reason in FAILURES:
            raise ProviderError(f"The provider ended the answer ({reason}).")
        if reason:
            known = FINISH.get(reason, "content_filter")
            is_call = known == "stop" and self._has_calls
            answer.finish_reason = "tool_calls" if is_call else known
        return parts


def _arguments(call: dict[str, Any]) -> str:
    return orjson.dumps(call.get("args") or {}).decode()
