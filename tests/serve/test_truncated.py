"""A limit beyond the context is shortened and told, or refused; a prompt beyond it is refused."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from in_process import serving, until
from tiny_llama import CONTEXT, write_llama

from fastchat.engine.base import Engine
from fastchat.engine.choose import EngineSettings
from fastchat.model.load import ModelSettings
from fastchat.serve.model_worker import open_model
from fastchat.serve.openai_api_server import Gateway, GatewaySettings
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings

TOLD = "x-fastchat-truncated"
BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello there"}]},
    "/v1/completions": {"prompt": "hello there"},
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
async def engine(llama: Path) -> AsyncIterator[Engine]:
    model = ModelSettings(model_path=str(llama), device="cpu", num_threads=1)
    engine = await open_model(model, EngineSettings(max_running=4))
    yield engine
    await engine.stop(drain_s=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strict", [False, True])
async def test_a_limit_beyond_the_context_is_told_or_refused(
    engine: Engine, strict: bool, stream: bool
) -> None:
    worker = Worker({"m": engine}, WorkerSettings(strict=strict))
    async with serving(worker.app) as worker_url:
        gateway = Gateway(GatewaySettings(endpoint=(worker_url,)))
        async with serving(gateway) as url, aiohttp.ClientSession() as session:
            await until(lambda: gateway.roster.router.models())

            async def ask(path: str, **more: Any) -> tuple[int, str, str]:
                body = {"model": "m", "stream": stream} | BODIES[path] | more
                async with session.post(url + path, json=body) as reply:
                    text = await reply.text()
                    return reply.status, reply.headers.get(TOLD, ""), text

            for path in BODIES:
                assert (await ask(path, max_tokens=3))[:2] == (200, "")
                for limit in (CONTEXT - 5, CONTEXT * 10):
                    status, told, text = await ask(path, max_tokens=limit, ignore_eos=True)
                    if strict:
                        assert (status, told) == (400, "") and "context_length_exceeded" in text
                    else:
                        assert (status, told) == (200, "max_tokens") and '"length"' in text
            long = {"messages": [{"role": "user", "content": "x" * 5000}]}
            status, told, text = await ask("/v1/chat/completions", **long)
            assert (status, told) == (400, "") and "40303" in text
