"""What has no meaning is named: inside of fields, in addresses, forms, pieces and lines."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from in_process import WAIT_LIMIT_S, serving, until

from fastchat.engine.echo import EchoEngine, EchoOptions
from fastchat.protocol.anthropic_api import MessagesRequest
from fastchat.protocol.openai_api import Body, ChatRequest, TokenizeRequest, ignored_fields
from fastchat.protocol.responses_api import ResponsesRequest
from fastchat.serve.openai_api_server import Gateway, GatewaySettings
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings

IGNORED = "x-fastchat-ignored"
SAID = {"role": "user", "content": "hi"}


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A gateway in front of a worker that echoes; two texts at most in one call for embeddings."""
    worker = Worker({"m": EchoEngine(EchoOptions())}, WorkerSettings())
    async with serving(worker.app) as worker_url:
        gateway = Gateway(GatewaySettings(endpoint=(worker_url,), embedding_batch_size=2))
        async with serving(gateway) as url:
            await until(lambda: gateway.roster.router.models())
            yield url


async def named(method: str, url: str, body: Any = None, form: Any = None) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, json=body, data=form) as reply,
    ):
        assert reply.status == 200, await reply.text()
        return reply.headers.get(IGNORED, "")


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,x", "size": 3}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (
            ChatRequest,
            {"messages": [SAID | {"weight": 1}, SAID | {"weight": 0}]},
            ["messages.weight"],
        ),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "mark": 1}]}]},
            ["messages.content.mark"],
        ),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [PICTURE]}]},
            ["messages.content.image_url.size"],
        ),
        (ChatRequest, {"messages": [SAID | {"refusal": "no"}]}, ["messages.refusal"]),
        (
            ChatRequest,
            {"tools": [{"type": "function", "function": {"name": "f", "cost": 1}, "x": 1}]},
            ["tools.function.cost", "tools.x"],
        ),
        (
            ChatRequest,
            {"response_format": {"type": "json_object", "indent": 2}, "flavour": 1},
            ["flavour", "response_format.indent"],
        ),
        (ChatRequest, {"stream_options": {"pace": 1}}, ["stream_options.pace"]),
        (TokenizeRequest, {"messages": [SAID | {"weight": 1}]}, ["messages.weight"]),
        (
            ResponsesRequest,
            {"input": [{"role": "user", "content": "x", "phase": "a"}]},
            ["input.phase"],
        ),
        (ResponsesRequest, {"text": {"format": {"type": "text", "x": 1}}}, ["text.format.x"]),
        (ResponsesRequest, {"reasoning": {"mode": "pro"}}, ["reasoning.mode"]),
        (
            ResponsesRequest,
            {"tools": [{"type": "function", "name": "f", "defer_loading": True}]},
            ["tools.defer_loading"],
        ),
        (
            MessagesRequest,
            {
                "system": [{"type": "text", "text": "x", "citations": [1]}],
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "document",
                                "source": {"type": "text", "data": "x"},
                                "context": "a book",
                                "citations": {"enabled": True},
                            }
                        ],
                    }
                ],
                "tools": [{"name": "f", "input_schema": {}, "input_examples": [{}]}],
            },
            [
                "system.citations",
                "messages.content.context",
                "messages.content.citations",
                "tools.input_examples",
            ],
        ),
    ],
)
def test_a_field_inside_of_a_field_is_named_once_by_its_path(
    kind: type[Body], body: dict[str, Any], expected: list[str]
) -> None:
    assert ignored_fields(kind, body) == expected


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (
            ChatRequest,  # as their client sends back what it was given
            {
                "messages": [
                    {
                        "role": "assistant", "content": None, "refusal": None, "annotations": [],
                        "audio": None, "function_call": None, "tool_calls": [CALL],
                        "reasoning_content": "x", "reasoning": "x",
                    },
                    {"role": "tool", "tool_call_id": "1", "content": "x"},
                ]
            },
        ),
        (ChatRequest, {"messages": "a finished prompt", "tools": None, "stream_options": 3}),
        (ChatRequest, {"messages": [None, 3, {"content": [None, {"type": ["x"]}]}]}),
        (
            MessagesRequest,
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
                            {"type": "tool_result", "tool_use_id": "1", "content": "x"},
                        ],
                    }
                ]
            },
        ),
    ],
)  # fmt: skip
def test_what_is_empty_known_or_refused_elsewhere_is_not_named(
    kind: type[Body], body: dict[str, Any]
) -> None:
    assert ignored_fields(kind, body) == []


@pytest.mark.slow
async def test_it_is_named_in_the_reply_of_every_route(url: str) -> None:
    odd = SAID | {"weight": 1}
    chat = {"model": "m", "messages": [odd]}
    assert await named("POST", f"{url}/v1/chat/completions", chat) == "messages.weight"
    message = {"model": "m", "messages": [odd], "max_tokens": 5}
    assert await named("POST", f"{url}/v1/messages?beta=true", message) == "messages.weight"
    assert await named("POST", f"{url}/v1/messages?gamma=1", message) == "gamma, messages.weight"
    response = {"model": "m", "input": [odd], "store": False}
    assert await named("POST", f"{url}/v1/responses", response) == "input.weight"
    texts = {"model": "m", "input": ["a", "b", "c"], "flavour": 1}
    assert await named("POST", f"{url}/v1/embeddings", texts) == "flavour"
    assert await named("GET", f"{url}/v1/files?limit=3&size=2") == "size"
    assert await named("GET", f"{url}/v1/batches?limit=3&order=asc") == "order"
    form = aiohttp.FormData({"purpose": "batch", "colour": "red"})
    form.add_field("file", b"x", filename="a.jsonl")
    assert await named("POST", f"{url}/v1/files", form=form) == "colour"


async def test_a_strict_worker_refuses_them() -> None:
    worker = Worker({"m": EchoEngine(EchoOptions())}, WorkerSettings(strict=True))
    async with serving(worker.app) as url, aiohttp.ClientSession() as session:
        body = {"model": "m", "messages": [SAID | {"weight": 1}]}
        async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
            assert (reply.status, (await reply.json())["error"]["param"]) == (
                400,
                "messages.weight",
            )


@pytest.mark.slow
async def test_of_a_line_they_are_named_in_its_answer(url: str) -> None:
    lines = [
        {"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions", "body": body}
        for i, body in enumerate(
            ({"model": "m", "messages": [SAID]}, {"model": "m", "messages": [SAID], "flavour": 1})
        )
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        file = await client.files.create(file=("a.jsonl", data), purpose="batch")
        created = await client.batches.with_raw_response.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h",
            extra_body={"priority": 1},
        )  # fmt: skip
        assert created.headers[IGNORED] == "priority"
        batch = created.parse()
        async with asyncio.timeout(WAIT_LIMIT_S):
            while (batch := await client.batches.retrieve(batch.id)).status != "completed":
                await asyncio.sleep(0.02)
        assert batch.output_file_id is not None
        text = (await client.files.content(batch.output_file_id)).text
    answers = {line["custom_id"]: line["response"] for line in map(json.loads, text.splitlines())}
    assert {name: one.get("ignored") for name, one in answers.items()} == {
        "0": None,
        "1": "flavour",
    }
