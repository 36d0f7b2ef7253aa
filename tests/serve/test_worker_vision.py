"""Pictures over HTTP, with the official client, against tiny models that see."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from in_process import serving

from fastchat.engine.choose import EngineSettings
from fastchat.model.load import ModelSettings
from fastchat.serve.fetch import PictureFetcher
from fastchat.serve.model_worker import open_model, registration_body
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings
from tests.engine.seeing_models import data_url, make_qwen, picture
from tests.serve.test_fetch import Site, anyone


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture
async def worker(folder: Path) -> AsyncIterator[Worker]:
    model = ModelSettings(model_path=str(folder), dtype="float32", num_threads=1, device="cpu")
    engine = await open_model(model, EngineSettings(max_cached_tokens=2048))
    made = Worker({"seeing": engine}, WorkerSettings(no_register=True))
    yield made
    await made.stop()


def asked(*parts: Any) -> list[Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def client_of(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


async def said(client: openai.AsyncOpenAI, messages: list[Any]) -> tuple[str, int]:
    reply = await client.chat.completions.create(
        model="seeing", messages=messages, temperature=0, max_tokens=16
    )
    assert reply.usage is not None
    return reply.choices[0].message.content or "", reply.usage.prompt_tokens


@pytest.mark.slow
async def test_a_picture_changes_the_answer_and_counts_as_tokens(worker: Worker) -> None:
    assert registration_body(worker, "http://w:1")["multimodal"]
    one, two = (data_url(picture(40, 56, seed)) for seed in (1, 2))
    async with serving(worker.app) as url, client_of(url) as client:
        plain, n_plain = await said(client, asked("what is this?"))
        first, n_first = await said(client, asked(image(one), "what is this?"))
        second, _ = await said(client, asked(image(two), "what is this?"))
        both, n_both = await said(client, asked(image(one), image(two), "what is this?"))
        assert len({plain, first, second, both}) == 4
        assert n_plain < n_first < n_both
        stream = await client.chat.completions.create(
            model="seeing",
            messages=asked(image(one), "what is this?"),
            temperature=0,
            max_tokens=16,
            stream=True,
        )
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
        assert text == first
        answers = await asyncio.gather(
            *(said(client, asked(image(u), "what is this?")) for u in (one, two, one))
        )
        assert [a for a, _ in answers] == [first, second, first]


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64,AAAA", "is none of"),
        ("data:image/png;base64,%%%", "not valid base64"),
        ("https://example.org/a.png", "--allow-image-urls"),
        ("file:///etc/passwd", "neither a data: nor an https: address"),
    ],
)
async def test_what_is_no_picture_is_a_400(
    worker: Worker, url: str, words: str, stream: bool
) -> None:
    async with serving(worker.app) as address, client_of(address) as client:
        with pytest.raises(openai.BadRequestError, match=words) as refused:
            await client.chat.completions.create(
                model="seeing", messages=asked(image(url), "?"), stream=stream
            )
        assert "messages" in str(refused.value.param)
        assert (await said(client, asked("still there?")))[0]


@pytest.mark.slow
async def test_allowed_addresses_are_fetched(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site()
    monkeypatch.setattr("fastchat.serve.fetch.CONNECT_TIMEOUT_S", 600.0)
    worker.pictures = PictureFetcher(is_allowed=anyone, timeout_s=600.0)
    async with (
        serving(site.app) as pages,
        serving(worker.app) as url,
        client_of(url) as client,
    ):
        by_address, _ = await said(client, asked(image(f"{pages}/picture"), "?"))
        direct, _ = await said(client, asked(image(data_url(picture(20, 10, 1))), "?"))
        assert by_address == direct
        with pytest.raises(openai.BadRequestError, match="no picture"):
            await said(client, asked(image(f"{pages}/page"), "?"))


async def test_models_without_eyes_refuse_pictures() -> None:
    settings = ModelSettings(model_path="echo:")
    blind = Worker(
        {"blind": await open_model(settings, EngineSettings())}, WorkerSettings(no_register=True)
    )
    async with serving(blind.app) as url, client_of(url) as client:
        with pytest.raises(openai.BadRequestError, match="does not take pictures") as refused:
            await client.chat.completions.create(
                model="blind", messages=asked(image(data_url(picture(8, 8, 1))), "?")
            )
    assert refused.value.param == "messages"
    assert json.dumps(refused.value.body)
    await blind.stop()
