"""A paid provider of each wire format, as far as its published reference describes it."""

import json
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

WORDS = ["Hel", "lo ", "wörld"]
TEXT = "".join(WORDS)
ARGUMENTS = {"city": "Paris"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request that came."""

    path: str
    query: str
    headers: dict[str, str]
    value: Any


class FakeProvider:
    """Answers like the provider whose `wire` it has.

    Attributes:
        failures: status, headers and body of replies that come before the first good one.
        cut: streams end in the middle, as when the connection breaks in good order.
        error_event: streams tell a failure in the middle.
        tool: the answer calls a tool.
        hangs: nothing is answered.
    """

    def __init__(self, wire: str) -> None:
        self.wire = wire
        self.seen: list[Seen] = []
        self.failures: list[tuple[int, dict[str, str], Any]] = []
        self.cut = False
        self.error_event = False
        self.tool = False
        self.hangs = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        request = Request(scope, receive)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        value = json.loads(await request.body())
        self.seen.append(
            Seen(
                path=request.url.path,
                query=request.url.query,
                headers={name.lower(): text for name, text in request.headers.items()},
                value=value,
            )
        )
        if self.hangs:
            while (await request.receive())["type"] != "http.disconnect":
                pass
        if self.failures:
            status, headers, body = self.failures.pop(0)
            return JSONResponse(body, status, headers)
        streamed = value.get("stream") or "stream" in request.url.path.lower()
        make = getattr(self, f"_{self.wire}")
        if not streamed:
            return JSONResponse(make(False))
        return StreamingResponse(self._events(make(True)), media_type="text/event-stream")

    async def _events(self, values: list[Any]):
        if self.cut or self.error_event:
            values = values[: len(values) // 2]
        for value in values:
            named = f"event: {value['type']}\n" if "type" in value else ""
            yield f"{named}data: {json.dumps(value)}\n\n"
        if self.error_event:
            yield f"data: {json.dumps(self._failure())}\n\n"
        elif self.wire == "openai" and not self.cut:
            yield "data: [DONE]\n\n"

    def _failure(self) -> dict[str, Any]:
        match self.wire:
            case "anthropic":
                return {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}
            case "gemini":
                return {"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}}
            case _:
                return {"type": "message-end", "delta": {"finish_reason": "ERROR"}}

    # ---- the wires

    def _openai(self, streamed: bool) -> Any:
        usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
        head = {"id": "x", "created": 1, "model": "theirs"}
        if not streamed:
            message = {"role": "assistant", "content": TEXT}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return head | {"object": "chat.completion", "choices": [choice], "usage": usage}
        chunk = head | {"object": "chat.completion.chunk"}
        deltas: list[Any] = [{"role": "assistant"}, *({"content": word} for word in WORDS)]
        events = [
            chunk | {"choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas
        ]
        events.append(chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (self.seen[-1].value.get("stream_options") or {}).get("include_usage"):
            events.append(chunk | {"choices": [], "usage": usage})
        return events

    def _anthropic(self, streamed: bool) -> Any:
        reason = "tool_use" if self.tool else "end_turn"
        use = {"type": "tool_use", "id": "toolu_1", "name": "weather"}
        if not streamed:
            blocks: list[Any] = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}]
            blocks.append({"type": "text", "text": TEXT})
            if self.tool:
                blocks.append(use | {"input": ARGUMENTS})
            return {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "content": blocks,
                "stop_reason": reason,
                "usage": {"input_tokens": 7, "cache_read_input_tokens": 2, "output_tokens": 4},
            }
        usage = {"input_tokens": 7, "cache_read_input_tokens": 2, "output_tokens": 1}
        start = {"id": "msg_1", "role": "assistant", "content": [], "usage": usage}
        thought = {"type": "thinking_delta", "thinking": "Hm."}
        events: list[Any] = [
            {"type": "message_start", "message": start},
            _block(0, {"type": "thinking", "thinking": ""}),
            {"type": "content_block_delta", "index": 0, "delta": thought},
            {"type": "content_block_stop", "index": 0},
            {"type": "ping"},
            _block(1, {"type": "text", "text": ""}),
        ]
        for word in WORDS:
            delta = {"type": "text_delta", "text": word}
            events.append({"type": "content_block_delta", "index": 1, "delta": delta})
        events.append({"type": "content_block_stop", "index": 1})
        if self.tool:
            events.append(_block(2, use | {"input": {}}))
            text = json.dumps(ARGUMENTS)
            for part in (text[:5], text[5:]):
                delta = {"type": "input_json_delta", "partial_json": part}
                events.append({"type": "content_block_delta", "index": 2, "delta": delta})
            events.append({"type": "content_block_stop", "index": 2})
        delta = {"stop_reason": reason, "stop_sequence": None}
        events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 4}})
        return [*events, {"type": "message_stop"}]

    def _gemini(self, streamed: bool) -> Any:
        usage = {"promptTokenCount": 9, "candidatesTokenCount": 3, "thoughtsTokenCount": 1}
        call = [{"functionCall": {"name": "weather", "args": ARGUMENTS}}] if self.tool else []
        thought = {"text": "Hm.", "thought": True}
        if not streamed:
            parts = [thought, {"text": TEXT}, *call]
            candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
            return {"candidates": [candidate], "usageMetadata": usage}
        pieces: list[Any] = [[thought], *([{"text": word}] for word in WORDS)]
        events = [{"candidates": [{"content": {"role": "model", "parts": p}}]} for p in pieces]
        last = {"content": {"role": "model", "parts": call}, "finishReason": "STOP"}
        return [*events, {"candidates": [last], "usageMetadata": usage}]

    def _cohere(self, streamed: bool) -> Any:
        reason = "TOOL_CALL" if self.tool else "COMPLETE"
        usage = {"tokens": {"input_tokens": 9, "output_tokens": 4}}
        text = json.dumps(ARGUMENTS)
        call = {"id": "w1", "type": "function", "function": {"name": "weather", "arguments": text}}
        if not streamed:
            parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": TEXT}]
            message: dict[str, Any] = {"role": "assistant", "content": parts}
            if self.tool:
                message["tool_calls"] = [call]
            return {"id": "c", "finish_reason": reason, "message": message, "usage": usage}
        events: list[Any] = [{"type": "message-start", "id": "c", "delta": {"message": {}}}]
        for content in ({"thinking": "Hm."}, *({"text": word} for word in WORDS)):
            delta = {"message": {"content": content}}
            events.append({"type": "content-delta", "index": 0, "delta": delta})
        if self.tool:
            first = call | {"function": {"name": "weather", "arguments": ""}}
            delta = {"message": {"tool_calls": first}}
            events.append({"type": "tool-call-start", "index": 0, "delta": delta})
            for part in (text[:5], text[5:]):
                delta = {"message": {"tool_calls": {"function": {"arguments": part}}}}
                events.append({"type": "tool-call-delta", "index": 0, "delta": delta})
            events.append({"type": "tool-call-end", "index": 0})
        delta = {"finish_reason": reason, "usage": usage}
        return [*events, {"type": "message-end", "delta": delta}]


def _block(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}
