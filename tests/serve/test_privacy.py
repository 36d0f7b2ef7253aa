"""What people ask and are told stays out of the logs, of errors' replies and of metrics."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from in_process import WAIT_LIMIT_S, serving, until
from tiny_llama import write_llama

from fastchat.engine.base import Engine
from fastchat.engine.choose import EngineSettings
from fastchat.engine.echo import EchoEngine, EchoOptions
from fastchat.model.load import ModelSettings
from fastchat.serve.controller import ControllerSettings
from fastchat.serve.controller import create_app as controller_app
from fastchat.serve.model_worker import open_model, registration_body
from fastchat.serve.openai_api_server import Gateway, GatewaySettings
from fastchat.serve.published_worker import published_routes
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings

SECRET = "marzipan-violoncello"
"""Stands in every prompt, and so in every answer of the echo engine."""
MESSAGES = [{"role": "user", "content": SECRET}]
TOOL = {"type": "function", "function": {"name": SECRET.replace("-", "_"), "parameters": {}}}
LONG = f"{SECRET} " * 300

REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/chat/completions", {"messages": MESSAGES, "stream": True, "user": SECRET}),
    ("/v1/chat/completions", {"messages": MESSAGES, "tools": [TOOL], "metadata": {SECRET: SECRET}}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
    ("/v1/chat/completions", {"messages": [{"role": SECRET, "content": SECRET}]}),
    ("/v1/chat/completions", {"messages": MESSAGES, "temperature": SECRET}),
    ("/v1/chat/completions", {"messages": MESSAGES, SECRET: SECRET}),
    ("/v1/chat/completions", {"messages": MESSAGES, "guided_regex": f"({SECRET}"}),
    ("/v1/completions", {"prompt": SECRET, "echo": True, "logprobs": 1, "max_tokens": 3}),
    ("/v1/completions", {"prompt": SECRET, "stop": [SECRET]}),
    ("/v1/embeddings", {"input": [SECRET, "x"]}),
    ("/v1/rerank", {"query": SECRET, "documents": [SECRET]}),
    ("/v1/responses", {"input": SECRET, "instructions": SECRET}),
    ("/v1/responses", {"input": SECRET, "stream": True, "previous_response_id": SECRET}),
    ("/v1/messages", {"messages": MESSAGES, "system": SECRET, "max_tokens": 3}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 3, "stream": True}),
    ("/tokenize", {"prompt": SECRET}),
    ("/api/v1/token_check", {"prompts": [{"model": "m", "prompt": SECRET, "max_tokens": 1}]}),
    (f"/v1/files/{SECRET}", {}),
    (f"/{SECRET}", {"messages": MESSAGES}),
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(params=["echo", "slots"])
async def engine(request: pytest.FixtureRequest, llama: Path) -> AsyncIterator[Engine]:
    if request.param == "echo":
        yield EchoEngine(EchoOptions())
        return
    model = ModelSettings(model_path=str(llama), device="cpu", num_threads=1)
    engine = await open_model(model, EngineSettings(max_running=4))
    yield engine
    await engine.stop(drain_s=0.0)


@pytest.mark.slow
async def test_prompts_and_answers_stay_out_of_the_logs(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.handler.setLevel(logging.INFO)
    worker = Worker({"m": engine}, WorkerSettings(), extra_routes=published_routes)
    controller = controller_app(ControllerSettings(host="127.0.0.1", heart_beat_expiration=3600.0))
    async with (
        serving(worker.app) as worker_url,
        serving(controller) as controller_url,
        aiohttp.ClientSession() as session,
    ):
        registration = registration_body(worker, worker_url)
        async with session.post(f"{controller_url}/register_worker", json=registration) as reply:
            assert reply.status == 200
        settings = GatewaySettings(
            controller_address=controller_url,
            database_url=str(tmp_path / "store.db"),
            api_keys=("k1",),
        )
        gateway = Gateway(settings)
        async with serving(gateway) as url:
            await until(lambda: gateway.roster.router.models())
            headers = {"authorization": "Bearer k1"}
            answers: list[str] = []
            for path, body in REQUESTS:
                asked = {"model": "m"} | body
                async with session.post(url + path, json=asked, headers=headers) as reply:
                    answers.append(text := await reply.text())
                    assert reply.status in (200, 400, 404, 405), (path, reply.status, text)
            answers.append(await _leave_a_stream(session, url, headers))
            answers.append(await _batch(url))
            asked = {"model": "m", "prompt": SECRET, "max_new_tokens": 3}
            for base in (worker_url, controller_url):
                async with session.post(f"{base}/worker_generate_stream", json=asked) as reply:
                    answers.append(await reply.text())
            for base in (worker_url, controller_url, url):
                async with session.get(f"{base}/metrics", headers=headers) as reply:
                    assert SECRET not in await reply.text()
    await worker.stop()
    assert SECRET in "".join(answers)  # it went all the way
    logged = "\n".join(_whole(record) for record in caplog.records)
    assert "registered" in logged and "table received" in logged  # INFO is there to be read
    for part in SECRET.split("-"):
        assert part not in logged
    said = re.findall(r'"content": ?"([^"\\]{6,})"', "".join(answers))
    assert not [text for text in said if text in logged]


def _whole(record: logging.LogRecord) -> str:
    """A record as a log file would hold it, its traceback as well."""
    return logging.Formatter().format(record)


async def _leave_a_stream(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> str:
    """Asks for a stream, and goes after its first piece."""
    body = {"model": "m", "messages": MESSAGES, "stream": True, "ignore_eos": True}
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
        return (await reply.content.readuntil(b"\n\n")).decode()


async def _batch(url: str) -> str:
    """A batch of one good line and one that fails; gives both of its files."""
    lines = [
        {"custom_id": f"{SECRET}-{i}", "method": "POST", "url": "/v1/chat/completions", "body": b}
        for i, b in enumerate(({"model": "m", "messages": MESSAGES}, {"model": SECRET}))
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k1") as client:
        file = await client.files.create(file=(f"{SECRET}.jsonl", data), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"about": SECRET},
        )
        ended = ("completed", "failed")
        async with asyncio.timeout(WAIT_LIMIT_S):
            while (batch := await client.batches.retrieve(batch.id)).status not in ended:
                await asyncio.sleep(0.02)
        names = [name for name in (batch.output_file_id, batch.error_file_id) if name]
        return "".join([(await client.files.content(name)).text for name in names])
