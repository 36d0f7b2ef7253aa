"""The worker around the default engine, with a tiny random Llama made on the spot."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from in_process import serving, until
from tiny_llama import CONTEXT, write_llama

from fastchat.engine.base import Engine
from fastchat.engine.choose import EngineSettings
from fastchat.model.load import ModelSettings
from fastchat.serve.model_worker import open_model
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings

MESSAGES: list[Any] = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
async def engine(llama: Path) -> AsyncIterator[Engine]:
    model = ModelSettings(model_path=str(llama), device="cpu", num_threads=1)
    engine = await open_model(model, EngineSettings(max_running=8, max_cached_tokens=4096))
    yield engine
    await engine.stop(drain_s=0.0)


@pytest.fixture
async def worker(engine: Engine) -> Worker:
    return Worker({"m": engine}, WorkerSettings())


@pytest.fixture
async def client(worker: Worker) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        serving(worker.app) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


async def streamed(client: openai.AsyncOpenAI, **fields: Any) -> tuple[str, Any]:
    stream = await client.chat.completions.create(
        model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **fields
    )
    text, usage = "", None
    async for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    return text, usage


@pytest.mark.slow
async def test_everything_an_openai_client_asks_for(
    client: openai.AsyncOpenAI, engine: Engine
) -> None:
    plain = await client.chat.completions.create(
        model="m", messages=MESSAGES, max_tokens=20, temperature=0
    )
    text, usage = await streamed(client, max_tokens=20, temperature=0)
    assert text == plain.choices[0].message.content
    assert plain.usage is not None
    n_prompt = len(engine.tokenize("hello there\n", add_special_tokens=False))
    body: Any = {"model": "m", "messages": MESSAGES}
    counted: Any = await client.post("../tokenize", body=body, cast_to=object)
    assert counted["count"] == n_prompt
    assert plain.usage.prompt_tokens == usage.prompt_tokens == n_prompt
    assert plain.usage.completion_tokens == usage.completion_tokens

    seeded = [(await streamed(client, max_tokens=20, seed=5, temperature=1))[0] for _ in range(2)]
    assert seeded[0] == seeded[1]
    other, _ = await streamed(client, max_tokens=20, seed=6, temperature=1)
    assert other != seeded[0]

    scored = await client.completions.create(
        model="m", prompt="hello", echo=True, logprobs=2, max_tokens=3, temperature=0
    )
    logprobs = scored.choices[0].logprobs
    assert logprobs is not None and logprobs.token_logprobs is not None
    assert logprobs.token_logprobs[0] is None
    assert scored.choices[0].text.startswith("hello")
    assert len(logprobs.token_logprobs) == len(engine.tokenize("hello")) + 3
    zero = await client.completions.create(
        model="m", prompt="hello", echo=True, logprobs=2, max_tokens=0
    )
    assert zero.choices[0].text == "hello"
    assert zero.usage is not None and zero.usage.completion_tokens == 0

    first = (plain.choices[0].message.content or "x")[0]
    stopped = await client.chat.completions.create(
        model="m", messages=MESSAGES, max_tokens=20, temperature=0, stop=first
    )
    assert stopped.choices[0].message.content == ""
    assert stopped.choices[0].finish_reason == "stop"

    token = engine.tokenize("k", add_special_tokens=False)[0]
    biased = await client.chat.completions.create(
        model="m", messages=MESSAGES, max_tokens=5, temperature=0, logit_bias={str(token): 100}
    )
    assert biased.choices[0].message.content == "kkkkk"

    several = await client.completions.create(
        model="m", prompt=["a", "b"], n=2, best_of=3, max_tokens=4, temperature=1, seed=1
    )
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.usage is not None
    assert several.usage.prompt_tokens == len(engine.tokenize("a")) + len(engine.tokenize("b"))
    assert several.usage.completion_tokens <= 2 * 3 * 4

    vectors = await client.embeddings.create(model="m", input=["one", "two"])
    assert sum(x * x for x in vectors.data[1].embedding) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [CONTEXT, 10 * CONTEXT, CONTEXT - 5])
async def test_a_limit_beyond_the_context_is_shortened_to_it(
    client: openai.AsyncOpenAI, limit: int
) -> None:
    reply = await client.chat.completions.create(
        model="m", messages=MESSAGES, max_tokens=limit, extra_body={"ignore_eos": True}
    )
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None and reply.usage.total_tokens == CONTEXT
    with pytest.raises(openai.BadRequestError) as raised:
        await client.completions.create(model="m", prompt="x" * CONTEXT, max_tokens=limit)
    assert raised.value.code == "context_length_exceeded"


async def test_many_clients_at_once_get_what_each_would_get_alone(
    client: openai.AsyncOpenAI, worker: Worker
) -> None:
    async def ask(i: int) -> str:
        reply = await client.completions.create(
            model="m", prompt=f"number {i % 4}", max_tokens=12, seed=i % 4, temperature=1
        )
        return reply.choices[0].text

    alone = [await ask(i) for i in range(4)]
    together = await asyncio.gather(*(ask(i) for i in range(24)))
    assert together == alone * 6
    assert worker.admission.queue_length == 0


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_place(worker: Worker, stream: bool) -> None:
    body = {"model": "m", "prompt": "x", "max_tokens": 250, "ignore_eos": True, "n": 4}
    engine = worker.engines["m"]
    async with serving(worker.app) as url, aiohttp.ClientSession() as http:
        for _ in range(3):
            path = f"{url}/v1/completions"
            post = asyncio.create_task(http.post(path, json=body | {"stream": stream}))
            await until(lambda: engine.stats().running > 0)
            assert stream or not post.done()
            post.cancel()
            await asyncio.gather(post, return_exceptions=True)
            if not post.cancelled():
                post.result().close()
            await until(lambda: engine.stats().running == 0 and not worker.admission.queue_length)


@pytest.mark.slow
async def test_hostile_values_never_reach_the_model_as_a_fault(
    client: openai.AsyncOpenAI, worker: Worker
) -> None:
    wrong: list[dict[str, Any]] = [
        {"prompt": [10**6]},
        {"prompt": ""},
        {"prompt": "x", "logit_bias": {"999999": 1}},
        {"prompt": "x", "stop_token_ids": [10**8]},
        {"prompt": ["x", "y" * 5000]},
        {"prompt": "\u0000" * 10_000},
    ]
    async with serving(worker.app) as url, aiohttp.ClientSession() as http:
        for fields in wrong:
            for stream in (False, True):
                body = {"model": "m", "max_tokens": 4, "stream": stream} | fields
                async with http.post(f"{url}/v1/completions", json=body) as reply:
                    assert reply.status in (200, 400), (fields, await reply.text())
                    if reply.status == 400:
                        error = json.loads(await reply.read())["error"]
                        assert error["type"] == "invalid_request_error"
        answer = await client.completions.create(model="m", prompt="x", max_tokens=1)
        assert answer.usage is not None and answer.usage.completion_tokens <= 1
    assert worker.admission.queue_length == 0
