"""A request's work is done once: one call inside, one rendering, one tokenization."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from in_process import serving, until
from tiny_llama import write_llama

from fastchat.engine.base import Engine
from fastchat.engine.choose import EngineSettings
from fastchat.model import prompting
from fastchat.model.load import ModelSettings
from fastchat.serve.model_worker import open_model
from fastchat.serve.openai_api_server import Gateway, GatewaySettings
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings

SAID = "a prompt that is long enough to be worth its work"
MESSAGES = [{"role": "user", "content": SAID}]
SHORT = {"model": "m", "max_tokens": 2}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(params=["slots", "groups"])
async def engine(llama: Path, request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    model = ModelSettings(model_path=str(llama), device="cpu", num_threads=1)
    engine = await open_model(model, EngineSettings(scheduler=request.param, max_running=4))
    yield engine
    await engine.stop(drain_s=0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/chat/completions", {"messages": MESSAGES, "stream": True}),
        ("/v1/chat/completions", {"messages": MESSAGES, "n": 3}),
        ("/v1/completions", {"prompt": SAID, "best_of": 2}),
        ("/v1/messages", {"messages": MESSAGES}),
        ("/v1/responses", {"input": SAID, "max_tokens": None, "store": False}),
    ],
)
async def test_a_prompt_is_sent_rendered_and_tokenized_once(
    engine: Engine, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized: list[str] = []
    encode = prompting.encode

    def counting(tokenizer: Any, text: str, **more: Any) -> list[int]:
        tokenized.append(text)
        return encode(tokenizer, text, **more)

    arrived: list[str] = []
    worker = Worker({"m": engine}, WorkerSettings())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arrived.append(scope.get("path", ""))
        await worker.app(scope, receive, send)

    async with serving(app) as worker_url:
        gateway = Gateway(GatewaySettings(endpoint=(worker_url,)))
        async with serving(gateway) as url, aiohttp.ClientSession() as session:
            await until(lambda: gateway.roster.router.models())
            monkeypatch.setattr(prompting, "encode", counting)
            arrived.clear()
            async with session.post(url + path, json=SHORT | body) as reply:
                assert reply.status == 200, await reply.text()
                await reply.read()
    with_prompt = [text for text in tokenized if SAID in text]
    assert len(with_prompt) == 1
    own = ("/v1/chat/completions", "/v1/completions")
    assert [p for p in arrived if p in own or "token" in p] == [
        path if path in own else "/v1/chat/completions"
    ]
