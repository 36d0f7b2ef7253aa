"""Requests that are wrong: each is refused in OpenAI's shape, and tells nothing of ours."""

import io
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from in_process import serving

from fastchat.engine.echo import EchoEngine, EchoOptions
from fastchat.errors import UsageError
from fastchat.protocol.openai_api import ChatRequest, CompletionRequest, EmbeddingRequest, parse
from fastchat.serve.published_worker import published_routes
from fastchat.serve.worker import MAX_BODY_BYTES, Worker
from fastchat.serve.worker_settings import WorkerSettings

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"

USER = {"role": "user", "content": "x"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SAID = {"role": "assistant", "content": "x"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": "echo", "messages": [USER]},
    COMPLETIONS: {"model": "echo", "prompt": "x"},
    EMBEDDINGS: {"model": "echo", "input": "x"},
    "/tokenize": {"model": "echo", "prompt": "x"},
    "/detokenize": {"model": "echo", "tokens": [97]},
}
ABSENT = object()

# route, field, its value, the status, the `param` of the error
WRONG: list[tuple[str, str, Any, int, str | None]] = [
    (CHAT, "model", ABSENT, 400, "model"),
    (CHAT, "model", None, 400, "model"),
    (CHAT, "model", 5, 400, "model"),
    (CHAT, "model", "", 400, "model"),
    (CHAT, "model", ["echo"], 400, "model"),
    (CHAT, "model", "m" * 5000, 400, "model"),
    (CHAT, "model", "nobody", 404, "model"),
    (CHAT, "model", "../../etc/passwd", 404, "model"),
    (CHAT, "model", "echo\u0000", 404, "model"),
    (CHAT, "messages", ABSENT, 400, "messages"),
    (CHAT, "messages", None, 400, "messages"),
    (CHAT, "messages", [], 400, "messages"),
    (CHAT, "messages", {}, 400, "messages"),
    (CHAT, "messages", 7, 400, "messages"),
    (CHAT, "messages", [None], 400, "messages[0]"),
    (CHAT, "messages", ["x"], 400, "messages[0]"),
    (CHAT, "messages", [[USER]], 400, "messages[0]"),
    (CHAT, "messages", [{}], 400, "messages[0]"),
    (CHAT, "messages", [{"content": "x"}], 400, "messages[0]"),
    (CHAT, "messages", [USER, {"role": "robot", "content": "x"}], 400, "messages[1]"),
    (CHAT, "messages", [{"role": 5, "content": "x"}], 400, "messages[0]"),
    (CHAT, "messages", [{"role": "user", "content": 5}], 400, "messages[0]"),
    (CHAT, "messages", [{"role": "user", "content": {"text": "x"}}], 400, "messages[0]"),
    (CHAT, "messages", [{"role": "user", "content": ["x"]}], 400, "messages[0]"),
    (CHAT, "messages", [{"role": "user", "content": [{"type": "text"}]}], 400, "messages[0]"),
    (CHAT, "messages", [{"role": "user", "content": [{"type": "video"}]}], 400, "messages[0]"),
    (CHAT, "messages", [{"role": "user", "content": [IMAGE]}], 400, "messages"),
    (
        CHAT,
        "messages",
        [{"role": "user", "content": [{"type": "image_url", "image_url": "file:///etc/passwd"}]}],
        400,
        "messages[0]",
    ),
    (CHAT, "messages", [{"role": "user", "content": "x", "name": 5}], 400, "messages[0].name"),
    (CHAT, "messages", [{"role": "user", "content": "x" * 10_000_000}], 400, "messages"),
    (CHAT, "messages", [USER] * 100_000, 400, "messages"),
    (CHAT, "messages", [{"role": "user", "content": "x" * 5000}], 400, None),
    (CHAT, "temperature", -0.1, 400, "temperature"),
    (CHAT, "temperature", 2.1, 400, "temperature"),
    (CHAT, "temperature", "hot", 400, "temperature"),
    (CHAT, "temperature", "0.5", 400, "temperature"),
    (CHAT, "temperature", True, 400, "temperature"),
    (CHAT, "temperature", [1], 400, "temperature"),
    (CHAT, "temperature", 1e308, 400, "temperature"),
    (CHAT, "top_p", -1, 400, "top_p"),
    (CHAT, "top_p", 1.5, 400, "top_p"),
    (CHAT, "top_k", -2, 400, "top_k"),
    (CHAT, "top_k", 1.5, 400, "top_k"),
    (CHAT, "top_k", 10**30, 400, "top_k"),
    (CHAT, "min_p", 2, 400, "min_p"),
    (CHAT, "repetition_penalty", 0, 400, "repetition_penalty"),
    (CHAT, "presence_penalty", 3, 400, "presence_penalty"),
    (CHAT, "frequency_penalty", -3, 400, "frequency_penalty"),
    (CHAT, "n", 0, 400, "n"),
    (CHAT, "n", -1, 400, "n"),
    (CHAT, "n", 10_000, 400, "n"),
    (CHAT, "n", "2", 400, "n"),
    (CHAT, "n", 1.5, 400, "n"),
    (CHAT, "n", True, 400, "n"),
    (CHAT, "max_tokens", 0, 400, "max_tokens"),
    (CHAT, "max_tokens", -5, 400, "max_tokens"),
    (CHAT, "max_tokens", 10**9, 400, "max_tokens"),
    (CHAT, "max_tokens", 1e30, 400, "max_tokens"),
    (CHAT, "max_tokens", "many", 400, "max_tokens"),
    (CHAT, "max_completion_tokens", 0, 400, "max_completion_tokens"),
    (CHAT, "stop", 5, 400, "stop"),
    (CHAT, "stop", "", 400, "stop[0]"),
    (CHAT, "stop", ["a", 5], 400, "stop[1]"),
    (CHAT, "stop", ["a"] * 10_000, 400, "stop"),
    (CHAT, "stop", ["a" * 100_000], 400, "stop[0]"),
    (CHAT, "stop_token_ids", [-1], 400, "stop_token_ids[0]"),
    (CHAT, "stop_token_ids", "a", 400, "stop_token_ids"),
    (CHAT, "stream", "yes", 400, "stream"),
    (CHAT, "stream", 1, 400, "stream"),
    (CHAT, "stream_options", {"include_usage": True}, 400, "stream_options"),
    (CHAT, "logprobs", 5, 400, "logprobs"),
    (CHAT, "top_logprobs", 3, 400, "top_logprobs"),
    (CHAT, "top_logprobs", 10**6, 400, "top_logprobs"),
    (CHAT, "logit_bias", {"x": 1}, 400, "logit_bias"),
    (CHAT, "logit_bias", {"-5": 1}, 400, "logit_bias"),
    (CHAT, "logit_bias", {"5": "a"}, 400, "logit_bias"),
    (CHAT, "logit_bias", {"5": 101}, 400, "logit_bias"),
    (CHAT, "logit_bias", [1], 400, "logit_bias"),
    (CHAT, "logit_bias", {str(i): 1 for i in range(100_000)}, 400, "logit_bias"),
    (CHAT, "seed", 1.5, 400, "seed"),
    (CHAT, "seed", "x", 400, "seed"),
    (CHAT, "seed", 10**40, 400, "seed"),
    (CHAT, "ignore_eos", "x", 400, "ignore_eos"),
    (CHAT, "tools", [{"type": "function"}], 400, "tools[0].function"),
    (CHAT, "functions", [{}], 400, "functions"),
    (CHAT, "tools", "x", 400, "tools"),
    (CHAT, "tools", [1], 400, "tools[0]"),
    (CHAT, "tools", [{"type": "function", "function": {"name": "f"}}] * 500, 400, "tools"),
    (CHAT, "tool_choice", 5, 400, "tool_choice"),
    (CHAT, "parallel_tool_calls", "x", 400, "parallel_tool_calls"),
    (CHAT, "modalities", ["audio"], 400, "modalities[0]"),
    (CHAT, "reasoning_effort", 5, 400, "reasoning_effort"),
    (CHAT, "chat_template_kwargs", [1], 400, "chat_template_kwargs"),
    (
        CHAT,
        "stream_options",
        {"continuous_usage_stats": True},
        400,
        "stream_options.continuous_usage_stats",
    ),
    (CHAT, "messages", [{**USER, "tool_calls": [CALL]}], 400, "messages[0]"),
    (CHAT, "messages", [{**SAID, "tool_calls": "x"}], 400, "messages[0].tool_calls"),
    (CHAT, "messages", [{**SAID, "tool_calls": [{}]}], 400, "messages[0].tool_calls[0].function"),
    (
        CHAT,
        "messages",
        [{**SAID, "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}],
        400,
        "messages[0].tool_calls[0].function.arguments",
    ),
    (CHAT, "messages", [{**SAID, "reasoning_content": 5}], 400, "messages[0].reasoning"),
    (CHAT, "guided_json", "{", 400, "guided_json"),
    (CHAT, "guided_regex", 5, 400, "guided_regex"),
    (CHAT, "structured_outputs", 5, 400, "structured_outputs"),
    (COMPLETIONS, "response_format", {"type": "json_schema"}, 400, "response_format.json_schema"),
    (CHAT, "response_format", {"type": "json_object"}, 400, "response_format"),
    (CHAT, "chat_template", "{{ x }}", 400, "chat_template"),
    (COMPLETIONS, "prompt", ABSENT, 400, "prompt"),
    (COMPLETIONS, "prompt", None, 400, "prompt"),
    (COMPLETIONS, "prompt", [], 400, "prompt"),
    (COMPLETIONS, "prompt", [[]], 400, "prompt"),
    (COMPLETIONS, "prompt", 5, 400, "prompt"),
    (COMPLETIONS, "prompt", {"a": 1}, 400, "prompt"),
    (COMPLETIONS, "prompt", ["a", 1], 400, "prompt"),
    (COMPLETIONS, "prompt", [1, -1], 400, "prompt"),
    (COMPLETIONS, "prompt", [1.5], 400, "prompt"),
    (COMPLETIONS, "prompt", [True], 400, "prompt"),
    (COMPLETIONS, "prompt", [10**12], 400, "prompt"),
    (COMPLETIONS, "prompt", [2**30], 400, None),
    (COMPLETIONS, "prompt", ["x"] * 1000, 400, "prompt"),
    (COMPLETIONS, "prompt", [[1]] * 100_000, 400, "prompt"),
    (COMPLETIONS, "max_tokens", -1, 400, "max_tokens"),
    (COMPLETIONS, "logprobs", 10**6, 400, "logprobs"),
    (COMPLETIONS, "logprobs", True, 400, "logprobs"),
    (COMPLETIONS, "logprobs", -1, 400, "logprobs"),
    (COMPLETIONS, "best_of", 0, 400, "best_of"),
    (COMPLETIONS, "best_of", 10_000, 400, "best_of"),
    (COMPLETIONS, "suffix", "end", 400, "suffix"),
    (COMPLETIONS, "echo", "yes", 400, "echo"),
    (COMPLETIONS, "use_beam_search", True, 400, "use_beam_search"),
    (EMBEDDINGS, "input", ABSENT, 400, "input"),
    (EMBEDDINGS, "input", [], 400, "input"),
    (EMBEDDINGS, "input", "", 400, "input"),
    (EMBEDDINGS, "input", ["a", ""], 400, "input"),
    (EMBEDDINGS, "input", [None], 400, "input"),
    (EMBEDDINGS, "input", {"text": "a"}, 400, "input"),
    (EMBEDDINGS, "input", ["a"] * 5000, 400, "input"),
    (EMBEDDINGS, "encoding_format", "float64", 400, "encoding_format"),
    (EMBEDDINGS, "dimensions", 0, 400, "dimensions"),
    (EMBEDDINGS, "dimensions", 10**5, 400, "dimensions"),
    ("/tokenize", "prompt", 5, 400, "prompt"),
    ("/tokenize", "prompt", ABSENT, 400, "prompt"),
    ("/detokenize", "tokens", [-1], 400, "tokens[0]"),
    ("/detokenize", "tokens", [2**30], 400, "tokens"),
    ("/detokenize", "tokens", "abc", 400, "tokens"),
]

BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"null", 400),
    (b"[]", 400),
    (b'"text"', 400),
    (b"5", 400),
    (b"{", 400),
    (b"{'model': 'echo'}", 400),
    (b'{"model": "echo", "messages": [{"role": "user", "content": "\xff\xfe"}]}', 400),
    (b'{"model": "echo", "prompt": "\\ud800", "messages": []}', 400),
    (b'{"model": "echo", "messages": "x", "temperature": NaN}', 400),
    (b'{"model": "echo", "messages": "x", "temperature": Infinity}', 400),
    (b'{"model": "echo", "messages": "x", "temperature": 1e999}', 400),
    (b'{"model": "echo", "messages": "x", "max_tokens": ' + b"9" * 5000 + b"}", 400),
    (b'{"model": "echo", "messages": ' + b"[" * 3000 + b"]" * 3000 + b"}", 400),
    (b"[" * 100_000, 400),
    (b'{"a":' * 100_000, 400),
    (b"\x00\x01\x02", 400),
    (b"\x1f\x8b\x08\x00garbage", 400),
]

LEAKS = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|0x[0-9a-f]{6}|<class|/home|/usr|pydantic|orjson|"
    r"\b(?:str|int|dict|NoneType)\b|Input should be|function-"
)


@pytest.fixture
async def worker_url() -> AsyncIterator[tuple[Worker, str]]:
    engine = EchoEngine(EchoOptions())
    worker = Worker({"echo": engine}, WorkerSettings(), extra_routes=published_routes)
    async with serving(worker.app) as url:
        yield worker, url


def check_error(body: dict[str, Any], status: int) -> None:
    """The old and the new form of an error, and nothing of the server's insides."""
    assert body["object"] == "error"
    assert isinstance(body["code"], int)
    assert body["message"] == body["error"]["message"]
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["type"] == "invalid_request_error"
    assert not LEAKS.search(body["message"]), body["message"]
    assert len(body["message"]) < 500
    assert 400 <= status < 500


@pytest.mark.slow
async def test_every_wrong_field_is_refused_by_name(worker_url: tuple[Worker, str]) -> None:
    worker, url = worker_url
    assert len(WRONG) >= 70
    async with aiohttp.ClientSession() as http:
        for route, field, value, status, param in WRONG:
            body = GOOD[route] | {field: value}
            if value is ABSENT:
                del body[field]
            sent = io.BytesIO(json.dumps(body).encode())
            async with http.post(url + route, data=sent) as reply:
                what = f"{route} {field}={str(value)[:60]}"
                assert reply.status == status, f"{what}: {await reply.text()}"
                found = await reply.json()
            assert found["error"]["param"] == param, what
            check_error(found, status)
    assert worker.admission.queue_length == 0


@pytest.mark.parametrize("route", [*GOOD, "/worker_generate_stream", "/count_token"])
async def test_broken_bodies_are_refused(worker_url: tuple[Worker, str], route: str) -> None:
    _, url = worker_url
    async with aiohttp.ClientSession() as http:
        for sent, status in BODIES:
            async with http.post(url + route, data=io.BytesIO(sent)) as reply:
                found = await reply.json()
            assert reply.status == status, (sent[:40], found)
            check_error(found, reply.status)


async def test_bodies_beyond_the_limit_are_refused_without_being_kept(
    worker_url: tuple[Worker, str],
) -> None:
    _, url = worker_url
    n_sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal n_sent
        for _ in range(50):
            n_sent += 1 << 20
            yield b" " * (1 << 20)

    async with aiohttp.ClientSession() as http:
        async with http.post(url + CHAT, data=io.BytesIO(b" " * (50 << 20))) as reply:
            check_error(await reply.json(), reply.status)
            assert reply.status == 413
        try:
            async with http.post(url + CHAT, data=endless()) as reply:
                assert reply.status == 413
        except aiohttp.ClientConnectionError:
            assert n_sent > MAX_BODY_BYTES  # cut off while sending is an answer as well
        async with http.get(f"{url}/health") as reply:
            assert reply.status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/nobody", 404),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v1/chat/completions/", 404),
        ("GET", "/%00%ff", 404),
    ],
)
async def test_unknown_routes_are_errors_in_the_same_shape(
    worker_url: tuple[Worker, str], method: str, path: str, status: int
) -> None:
    _, url = worker_url
    async with aiohttp.ClientSession() as http, http.request(method, url + path) as reply:
        assert reply.status == status
        check_error(await reply.json(), status)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChatRequest, {"messages": [USER], "stop": None, "n": None, "seed": None}),
        (ChatRequest, {"messages": [USER], "tools": [], "response_format": {"type": "text"}}),
        (ChatRequest, {"messages": "a raw prompt"}),
        (ChatRequest, {"messages": [{"role": "user", "content": ""}]}),
        (ChatRequest, {"messages": [{"role": "assistant"}]}),
        (ChatRequest, {"messages": [USER], "metadata": {"a": 1}, "service_tier": "auto"}),
        (ChatRequest, {"messages": [USER], "tool_choice": "none", "unknown": object()}),
        (CompletionRequest, {"prompt": "x", "max_tokens": None, "suffix": ""}),
        (CompletionRequest, {"prompt": [1, 2], "n": 2, "best_of": 2, "stream": True}),
        (EmbeddingRequest, {"input": [[1, 2], [3]]}),
        (EmbeddingRequest, {"input": "x", "engine": "m"}),
    ],
)
def test_unusual_but_right_bodies_pass(kind: Any, body: dict[str, Any]) -> None:
    assert parse(kind, {"model": "m"} | body).model == "m"


def test_the_message_gives_the_limit_and_the_value() -> None:
    with pytest.raises(UsageError, match=r"`temperature` must be at most 2, not 3\."):
        parse(ChatRequest, {"model": "m", "messages": [USER], "temperature": 3})
