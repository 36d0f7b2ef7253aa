"""The published worker routes, as an outside client of 2023 uses them."""

import base64
import json
import struct
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from in_process import serving

from fastchat.engine.echo import EchoEngine, EchoOptions
from fastchat.serve.published_worker import (
    SERVER_ERROR_MSG,
    published_routes,
)
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings


@pytest.fixture
async def url() -> AsyncIterator[str]:
    engine = EchoEngine(EchoOptions(fail_on="bad", fail_after=2, context=20_000))
    worker = Worker({"echo": engine}, WorkerSettings(), extra_routes=published_routes)
    async with serving(worker.app) as address:
        yield address
    assert worker.admission.queue_length == 0


async def post(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    async with aiohttp.ClientSession() as http, http.post(url + path, json=body) as reply:
        assert reply.status == 200
        return await reply.json()


async def frames(url: str, body: dict[str, Any]) -> tuple[list[Any], int]:
    """The objects of a stream, and its size in bytes."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/worker_generate_stream", json=body) as reply,
    ):
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/octet-stream"
        data = await reply.read()
    assert data.endswith(b"\0")
    return [json.loads(part) for part in data[:-1].split(b"\0")], len(data)


async def test_text_is_cumulative_and_begins_with_the_prompt(url: str) -> None:
    found, _ = await frames(url, {"prompt": "hello"})
    texts = [value["text"] for value in found]
    assert texts[0] == "hello"
    assert all(b.startswith(a) for a, b in pairwise(texts))
    assert texts[-1] == "hellohello"
    assert [value["finish_reason"] for value in found] == [None] * (len(found) - 1) + ["stop"]
    assert {value["error_code"] for value in found} == {0}
    usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    assert found[-1]["usage"] == usage
    assert all(value["usage"]["prompt_tokens"] == 5 for value in found)


async def test_a_delta_stream_has_offsets_and_grows_linearly(url: str) -> None:
    body = {"prompt": "x" * 4000, "echo": False, "max_new_tokens": 4000, "stream_mode": "delta"}
    found, size = await frames(url, body)
    text = ""
    for value in found:
        assert value["offset"] == len(text)
        text += value["text"]
    assert text == "x" * 4000
    assert size <= 300 * len(found) + len(text)


async def test_legacy_logprobs_are_cumulative(url: str) -> None:
    found, _ = await frames(url, {"prompt": "abc", "logprobs": 1})
    logprobs = found[-1]["logprobs"]
    assert logprobs["tokens"] == list("abcabc")
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["text_offset"] == list(range(6))
    found, _ = await frames(url, {"prompt": "abc", "logprobs": 1, "stream_mode": "delta"})
    offsets = [o for value in found for o in value["logprobs"]["text_offset"]]
    assert offsets == list(range(6))


async def test_a_failure_is_the_last_object(url: str) -> None:
    found, _ = await frames(url, {"prompt": "bad luck", "echo": False})
    assert [value["error_code"] for value in found[:-1]] == [0] * (len(found) - 1)
    assert found[-1]["error_code"] == 50001
    assert found[-1]["text"].startswith(SERVER_ERROR_MSG + "\n\n(")
    found, _ = await frames(url, {"prompt": "x", "images": ["a"]})
    assert [value["error_code"] for value in found] == [40001]


@pytest.mark.slow
async def test_generate_gives_the_last_object(url: str) -> None:
    body = {"prompt": "hello world", "echo": False, "stop": "wo", "temperature": 0}
    found = await post(url, "/worker_generate", body | {"stream_mode": "delta"})
    assert found["text"] == "hello "
    assert found["finish_reason"] == "stop"


async def test_a_prompt_that_is_too_long_loses_its_beginning(url: str) -> None:
    body = {"prompt": "a" * 30_000 + "z", "echo": False, "max_new_tokens": 10}
    found = await post(url, "/worker_generate", body)
    assert found["error_code"] == 0
    assert found["usage"]["prompt_tokens"] == 20_000 - 10


async def test_embeddings_as_lists_and_as_bytes(url: str) -> None:
    plain = await post(url, "/worker_get_embeddings", {"input": ["abc", "d"]})
    assert plain["token_num"] == 4
    body = {"input": ["abc", "d"], "encoding_format": "base64"}
    packed = await post(url, "/worker_get_embeddings", body)
    raw = base64.b64decode(packed["embedding"][0])
    assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == pytest.approx(plain["embedding"][0])
    failed = await post(url, "/worker_get_embeddings", {"input": 5})
    assert failed["error_code"] == 40001


async def test_small_questions(url: str) -> None:
    status = {"model_names": ["echo"], "speed": 1, "queue_length": 0}
    assert await post(url, "/worker_get_status") == status
    counted = {"count": 5, "error_code": 0}
    assert await post(url, "/count_token", {"model": "other", "prompt": "hello"}) == counted
    assert await post(url, "/model_details", {"model": "echo"}) == {"context_length": 20_000}
    conv = (await post(url, "/worker_get_conv_template", {"model": "echo"}))["conv"]
    assert isinstance(conv["sep_style"], int)
    assert conv["messages"] == []


@pytest.mark.slow
async def test_a_worker_of_several_models_looks_at_the_name() -> None:
    engines = {"a": EchoEngine(), "b": EchoEngine()}
    worker = Worker(engines, WorkerSettings(), extra_routes=published_routes)
    async with serving(worker.app) as url:
        found = await post(url, "/worker_generate", {"model": "nobody", "prompt": "x"})
        assert found["error_code"] == 40301
        assert (await post(url, "/worker_generate", {"model": "b", "prompt": "x"}))["text"] == "xx"
