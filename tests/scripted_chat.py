"""A chat endpoint that answers as a test says, and gateways in front of it or of an echo."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp
from live import serving, until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from fastchat.engine.echo import EchoEngine, echo_options
from fastchat.serve.openai_api_server import GatewaySettings, create_app
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings

Answer = Callable[[dict[str, Any]], Response]


class ScriptedChat:
    """An endpoint for the model `m`; `answer` makes its replies, `bodies` keeps what was asked."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.deltas: list[Mapping[str, Any]] = [{"content": "ok"}]
        self.reason = "stop"
        self.answer: Answer | None = None
        self.breaks = False
        posts = {path: self._chat for path in ("/v1/chat/completions", "/v1/completions")}
        posts["/tokenize"] = self._tokenize
        self.app = Starlette(
            routes=[
                *(Route(path, handler, methods=["POST"]) for path, handler in posts.items()),
                Route("/v1/models", self._models),
                Route("/health", self._models),
            ]
        )

    async def _models(self, request: Request) -> Response:
        card = {"id": "m", "object": "model", "context_length": 64}
        return JSONResponse({"object": "list", "data": [card]})

    async def _tokenize(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        return JSONResponse({"count": 7, "max_model_len": 64, "tokens": []})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if self.answer is not None:
            return self.answer(body)
        if body.get("stream"):
            return StreamingResponse(self._events(), media_type="text/event-stream")
        return JSONResponse(self._whole())

    def _whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None}
        calls: dict[int, dict[str, Any]] = {}
        for delta in self.deltas:
            for name in ("content", "reasoning_content", "refusal"):
                if name in delta:
                    message[name] = (message.get(name) or "") + delta[name]
            for call in delta.get("tool_calls", ()):
                known = calls.setdefault(
                    call["index"], {"type": "function", "function": {"name": "", "arguments": ""}}
                )
                known["id"] = call.get("id") or known.get("id")
                for name, value in call["function"].items():
                    known["function"][name] += value
        if calls:
            message["tool_calls"] = list(calls.values())
        choice = {"index": 0, "message": message, "finish_reason": self.reason}
        return _frame("chat.completion", [choice]) | {"usage": USAGE}

    async def _events(self) -> AsyncIterator[bytes]:
        yield _event([{"index": 0, "delta": {"role": "assistant", "content": ""}}])
        for delta in self.deltas:
            yield _event([{"index": 0, "delta": delta, "finish_reason": None}])
        if self.breaks:
            error = {"message": "it broke", "type": "server_error", "code": "model_error"}
            yield b"event: error\ndata: " + json.dumps({"error": error}).encode() + b"\n\n"
        else:
            yield _event([{"index": 0, "delta": {}, "finish_reason": self.reason}])
            yield _event([], usage=USAGE)
        yield b"data: [DONE]\n\n"


USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def call_deltas(index: int, name: str, *pieces: str) -> list[dict[str, Any]]:
    """The deltas of one tool call whose arguments come in pieces."""
    first = {"index": index, "id": f"call_{index}", "type": "function"}
    first["function"] = {"name": name, "arguments": ""}
    more = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
    return [{"tool_calls": [call]} for call in (first, *more)]


def _frame(kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "x", "object": kind, "created": 1, "model": "m", "choices": choices}


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    frame = _frame("chat.completion.chunk", choices) | more
    return b"data: " + json.dumps(frame).encode() + b"\n\n"


@contextlib.asynccontextmanager
async def gateway_to(endpoint_url: str, **fields: Any) -> AsyncIterator[str]:
    """The address of a gateway that knows the endpoint."""
    app = create_app(GatewaySettings(host="127.0.0.1", endpoint=(endpoint_url,), **fields))
    async with serving(app) as url, aiohttp.ClientSession() as session:
        keys = fields.get("api_keys")
        headers = {"authorization": f"Bearer {keys[0]}"} if keys else {}
        known: list[Any] = []
        while not known:
            async with session.get(f"{url}/v1/models", headers=headers) as reply:
                known = (await reply.json())["data"]
            await until(lambda: True)
        yield url


@contextlib.asynccontextmanager
async def scripted_gateway(**fields: Any) -> AsyncIterator[tuple[str, ScriptedChat]]:
    """A gateway in front of a scripted endpoint."""
    chat = ScriptedChat()
    async with serving(chat.app) as inner, gateway_to(inner, **fields) as url:
        yield url, chat


@contextlib.asynccontextmanager
async def echo_gateway(options: str = "echo:", **fields: Any) -> AsyncIterator[str]:
    """A gateway in front of a worker with the echo engine, whose model is `echo`."""
    engine = EchoEngine(echo_options(options))
    worker = Worker({"echo": engine}, WorkerSettings())
    async with serving(worker.app) as inner, gateway_to(inner, **fields) as url:
        yield url
