"""Workers of other projects: a subclass gets the published routes and the OpenAI API."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from in_process import serving, until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fastchat.serve import base_model_worker
from fastchat.serve.base_model_worker import BaseModelWorker, app


class Shouter(BaseModelWorker):
    """A blocking worker as outside projects write them: answers in capitals."""

    def __init__(self, controller_addr: str = "http://localhost:1") -> None:
        super().__init__(
            controller_addr, "http://me:1", "id", "models/shouter", None, 3, "vicuna_v1.1"
        )
        self.context_len = 512
        self.seen: list[dict[str, Any]] = []
        self.n_closed = 0

    def generate_stream_gate(self, params: dict[str, Any]) -> Iterator[bytes]:
        self.seen.append(params)
        try:
            if "fail" in params["prompt"]:
                yield b'{"text": "no", "error_code": 50001}\0'
                return
            text = params["prompt"][-8:].upper()
            for end in range(1, len(text) + 1):
                reason = "length" if end == len(text) else None
                usage = {"prompt_tokens": 7, "completion_tokens": end, "total_tokens": 7 + end}
                value = {"text": text[:end], "error_code": 0, "usage": usage}
                yield json.dumps(value | {"finish_reason": reason}).encode() + b"\0"
        finally:
            self.n_closed += 1

    def get_embeddings(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"embedding": [[1.0, 0.0] for _ in params["input"]], "token_num": 4}

    def count_token(self, params: dict[str, Any]) -> dict[str, int]:
        return {"count": len(params["prompt"]), "error_code": 0}


class Whisperer(Shouter):
    """The same with a coroutine."""

    async def generate_stream_gate(self, params: dict[str, Any]) -> AsyncIterator[bytes]:
        for part in super().generate_stream_gate(params):
            yield part[:3]
            yield part[3:].lower()


@pytest.mark.parametrize("kind", [Shouter, Whisperer])
async def test_the_published_routes_pass_bodies_on(kind: type[Shouter]) -> None:
    gate = kind()
    body = {"prompt": "hello you", "own_field": 5}
    async with serving(app) as url, aiohttp.ClientSession() as http:
        reply = await http.post(f"{url}/worker_generate_stream", json=body)
        frames = (await reply.read()).split(b"\0")
        assert frames[-1] == b""
        values = [json.loads(frame) for frame in frames[:-1]]
        assert values[-1]["text"].lower() == "ello you"
        last = await (await http.post(f"{url}/worker_generate", json=body)).json()
        assert last == values[-1]
        assert gate.seen[0]["own_field"] == 5
        for path, wanted in (
            ("/worker_get_status", {"model_names": ["shouter"], "speed": 1, "queue_length": 0}),
            ("/count_token", {"count": 9, "error_code": 0}),
            ("/model_details", {"context_length": 512}),
            ("/worker_get_embeddings", {"error_code": 50001}),
        ):
            found = await (await http.post(url + path, json=body)).json()
            assert wanted.items() <= found.items()
        conv = await (await http.post(f"{url}/worker_get_conv_template", json={})).json()
        assert conv["conv"]["name"] == "vicuna_v1.1"
    assert gate.n_closed == 2
    assert gate.get_queue_length() == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Shouter, Whisperer])
async def test_it_answers_the_openai_api(kind: type[Shouter]) -> None:
    gate = kind()
    body = {"model": "shouter", "messages": [{"role": "user", "content": "hi"}]}
    async with serving(app) as url, aiohttp.ClientSession() as http:
        chat = f"{url}/v1/chat/completions"
        reply = await (await http.post(chat, json=body)).json()
        assert reply["choices"][0]["message"]["content"].lower() == "sistant:"
        assert reply["choices"][0]["finish_reason"] == "length"
        assert reply["usage"]["total_tokens"] == 15
        assert gate.seen[0]["prompt"].endswith("USER: hi ASSISTANT:")
        text = await (await http.post(chat, json=body | {"stream": True})).text()
        assert text.endswith("data: [DONE]\n\n")
        embedding = {"model": "shouter", "input": ["a", "b"]}
        reply = await (await http.post(f"{url}/v1/embeddings", json=embedding)).json()
        assert reply["usage"]["prompt_tokens"] == 4
        failing = {"model": "shouter", "prompt": "fail"}
        assert (await http.post(f"{url}/v1/completions", json=failing)).status == 500
        ids = {"model": "shouter", "prompt": [1, 2]}
        assert (await http.post(f"{url}/v1/completions", json=ids)).status == 400
    assert gate.get_queue_length() == 0


@pytest.mark.slow
async def test_it_registers_once_or_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("base_model_worker", "registration"):  # the controller answers, however late
        monkeypatch.setattr(f"fastchat.serve.{module}._TIMEOUT_S", 600.0)
    calls: list[tuple[str, Any]] = []

    async def controller(request: Request) -> Response:
        calls.append((request.url.path, await request.json()))
        reply = {"exist": False} if "heart" in request.url.path else None
        return JSONResponse(reply)

    paths = ("/register_worker", "/receive_heart_beat", "/unregister_worker")
    routes = [Route(path, controller, methods=["POST"]) for path in paths]
    async with serving(Starlette(routes=routes)) as url:
        gate = Shouter(url)
        await asyncio.to_thread(gate.send_heart_beat)
        assert [path for path, _ in calls] == ["/receive_heart_beat", "/register_worker"]
        assert calls[1][1]["worker_status"]["model_names"] == ["shouter"]
        assert calls[1][1]["worker_info"] == {"context_length": 512}
        gate.init_heart_beat()
        await until(lambda: len(calls) > 2)
        assert calls[2][0] == "/register_worker"
        await asyncio.to_thread(gate.close)
        assert calls[-1] == ("/unregister_worker", {"worker_name": "http://me:1"})


async def test_the_worker_made_last_is_served_unless_another_is_put_there() -> None:
    first, second = Shouter(), Shouter()
    assert base_model_worker.worker is second
    base_model_worker.worker = first
    async with serving(app) as url, aiohttp.ClientSession() as http:
        await http.post(f"{url}/worker_generate", json={"prompt": "x"})
    assert (len(first.seen), len(second.seen)) == (1, 0)
