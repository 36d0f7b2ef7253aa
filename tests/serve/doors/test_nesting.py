"""Bodies that JSON reads but does not write again: nested deeper than it goes, on every door."""

import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from scripted_chat import echo_gateway

from fastchat.errors import UsageError
from fastchat.protocol.openai_tools import Tool
from fastchat.serve import metering
from fastchat.serve.tool_grammar import check_tools

DEPTH = 400
HELLO = '[{"role": "user", "content": "x"}]'


def nested(depth: int) -> str:
    """A JSON schema of objects in objects."""
    return '{"type": "object", "properties": {"a": ' * depth + "{}" + "}}" * depth


BODIES = {
    "/v1/chat/completions": f'"messages": {HELLO}, "tools": [{{"type": "function", "function": '
    '{"name": "f", "parameters": DEEP}}]',
    "/v1/messages": f'"max_tokens": 4, "messages": {HELLO}, "tools": '
    '[{"name": "f", "input_schema": DEEP}]',
    "/v1/responses": '"input": "x", "tools": [{"type": "function", "name": "f", '
    '"parameters": DEEP}]',
    "/v1/messages/count_tokens": f'"messages": {HELLO}, "tools": '
    '[{"name": "f", "input_schema": DEEP}]',
    "/v1/responses/input_tokens": '"input": "x", "tools": [{"type": "function", "name": "f", '
    '"parameters": DEEP}]',
    "/v1/embeddings": '"input": DEEP',
    "/v1/rerank": '"query": "x", "documents": [DEEP]',
    "/v1/score": '"text_1": "x", "text_2": DEEP',
    "/tokenize": f'"messages": {HELLO}, "chat_template_kwargs": {{"a": DEEP}}, "input": DEEP',
}


@pytest.fixture
async def gateway() -> AsyncIterator[str]:
    async with echo_gateway() as url:
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("path", BODIES)
async def test_what_is_nested_too_deeply_is_refused(gateway: str, path: str) -> None:
    body = '{"model": "echo", ' + BODIES[path].replace("DEEP", nested(DEPTH)) + "}"
    headers = {"content-type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(gateway + path, data=body, headers=headers) as reply,
    ):
        assert reply.status == (200 if path == "/tokenize" else 400), await reply.text()
        assert ("error" in await reply.json()) == (reply.status == 400)


@pytest.mark.slow
async def test_a_body_without_a_model_is_written_again_or_refused(gateway: str) -> None:
    async with aiohttp.ClientSession() as session:
        for path in ("/tokenize", "/v1/engines/echo/embeddings"):
            body = '{"prompt": "x", "input": "x", "more": ' + nested(DEPTH) + "}"
            async with session.post(gateway + path, data=body) as reply:
                assert reply.status == 400
                assert "nested too deeply" in (await reply.json())["error"]["message"]


def test_a_stream_that_cannot_be_asked_for_its_use_is_refused() -> None:
    value = json.loads('{"stream": true, "stream_options": {}, "more": ' + nested(DEPTH) + "}")
    with pytest.raises(UsageError, match="nested too deeply"):
        metering.with_usage(b"", value)


async def test_parameters_deeper_than_a_grammar_goes_are_refused_by_name() -> None:
    source = nested(100)
    tool = Tool(
        name="f", description="", parameters=json.loads(source), source=source, is_strict=False
    )
    with pytest.raises(UsageError, match="cannot be compiled") as caught:
        await check_tools([tool])
    assert caught.value.param == "tools[0].function.parameters"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", ["9" * 5000, "3599", "x", "-1"])
async def test_a_life_of_a_file_that_is_no_number_of_seconds_is_refused(
    gateway: str, seconds: str
) -> None:
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", b"{}", filename="a.jsonl")
    form.add_field("expires_after[anchor]", "created_at")
    form.add_field("expires_after[seconds]", seconds)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{gateway}/v1/files", data=form) as reply,
    ):
        assert (reply.status, (await reply.json())["error"]["param"]) == (400, "expires_after")
