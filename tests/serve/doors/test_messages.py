import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import pytest
from live import serving, until
from scripted_chat import call_deltas, echo_gateway, gateway_to, scripted_gateway
from starlette.responses import JSONResponse

from fastchat.engine.echo import EchoEngine, echo_options
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings

HELLO = [{"role": "user", "content": "hi there"}]


@contextlib.asynccontextmanager
async def official(url: str, **more: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    key = {"api_key": "k1", **more}
    async with anthropic.AsyncAnthropic(base_url=url, max_retries=0, **key) as client:
        yield client


@pytest.mark.slow
async def test_the_official_client_asks_and_streams() -> None:
    async with echo_gateway() as url, official(url) as client:
        message = await client.messages.create(model="echo", max_tokens=50, messages=HELLO)
        assert message.content[0].text == "hi there"
        assert (message.stop_reason, message.role, message.type) == (
            "end_turn",
            "assistant",
            "message",
        )
        assert message.usage.output_tokens == 8
        async with client.messages.stream(model="echo", max_tokens=3, messages=HELLO) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        assert text == final.content[0].text == "hi "
        assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 3)
        assert final.usage.input_tokens == message.usage.input_tokens > 0


TOOLS = [
    {
        "name": "weather",
        "description": "The weather of a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]


@pytest.mark.slow
async def test_thinking_text_and_calls_become_blocks_in_both_ways() -> None:
    async with scripted_gateway() as (url, chat), official(url) as client:
        chat.deltas = [
            {"reasoning_content": "I "},
            {"reasoning_content": "think"},
            {"content": "Let me "},
            {"content": "look."},
            *call_deltas(0, "weather", '{"city": ', '"Ghent"}'),
            *call_deltas(1, "weather", "{}"),
        ]
        chat.reason = "tool_calls"
        asked: Any = {"model": "m", "max_tokens": 9, "messages": HELLO, "tools": TOOLS}
        whole = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_message()
        for message in (whole, streamed):
            thought, text, first, second = message.content
            assert (thought.type, thought.thinking) == ("thinking", "I think")
            assert text.text == "Let me look."
            assert (first.type, first.id, first.name) == ("tool_use", "call_0", "weather")
            assert (first.input, second.input) == ({"city": "Ghent"}, {})
            assert message.stop_reason == "tool_use"
            assert message.usage.input_tokens == 6
            assert message.usage.cache_read_input_tokens == 4
            assert message.usage.output_tokens == 5
        assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
        assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 4


@pytest.mark.slow
async def test_a_stream_has_the_published_events_in_order() -> None:
    async with scripted_gateway() as (url, _), aiohttp.ClientSession() as session:
        body = {"model": "m", "max_tokens": 9, "messages": HELLO, "stream": True}
        async with session.post(f"{url}/v1/messages", json=body) as reply:
            raw = (await reply.read()).decode()
            assert reply.headers["content-type"].startswith("text/event-stream")
            assert reply.headers["request-id"].startswith("req_")
        events = [event.split("\n") for event in raw.strip().split("\n\n")]
        names = [name.removeprefix("event: ") for name, _ in events]
        values = [json.loads(data.removeprefix("data: ")) for _, data in events]
        assert names == [value["type"] for value in values]
        assert names == [
            *("message_start", "ping", "content_block_start", "content_block_delta"),
            *("content_block_stop", "message_delta", "message_stop"),
        ]
        assert values[0]["message"]["content"] == []
        assert values[5]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


async def test_every_kind_of_content_reaches_the_chat() -> None:
    async with scripted_gateway() as (url, chat), official(url) as client:
        picture = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
        await client.messages.create(
            model="m",
            max_tokens=9,
            system=[{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}],
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "look"},
                        {"type": "image", "source": picture},
                        {
                            "type": "document",
                            "title": "t",
                            "source": {"type": "text", "media_type": "text/plain", "data": "d"},
                        },
                    ],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"a": 1}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "c1",
                            "is_error": True,
                            "content": [
                                {"type": "text", "text": "no"},
                                {"type": "image", "source": {"type": "url", "url": "https://x/y"}},
                            ],
                        },
                        {"type": "text", "text": "go on"},
                    ],
                },
            ],
            tools=TOOLS,
            tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
            stop_sequences=["END"],
            extra_body={"top_k": 5, "temperature": 0.5},
            thinking={"type": "disabled"},
            metadata={"user_id": "u"},
            output_config={"effort": "low", "format": {"type": "json_schema", "schema": {}}},
        )
    asked = chat.bodies[-1]
    system, first, called, result, last = asked["messages"]
    assert system == {"role": "system", "content": "Be"}
    assert [part["type"] for part in first["content"]] == ["text", "image_url", "text"]
    assert first["content"][1]["image_url"]["url"] == "data:image/png;base64,AAAA"
    assert called["reasoning_content"] == "hm" and called["content"] is None
    assert called["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"a": 1}'}
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "Error: no"}
    assert [part["type"] for part in last["content"]] == ["image_url", "text"]
    assert asked["tools"][0]["function"]["parameters"] == TOOLS[0]["input_schema"]
    assert asked["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert asked["parallel_tool_calls"] is False
    assert (asked["stop"], asked["top_k"], asked["temperature"]) == (["END"], 5, 0.5)
    assert asked["chat_template_kwargs"] == {"enable_thinking": False}
    assert asked["response_format"]["json_schema"]["strict"] is True
    assert (asked["reasoning_effort"], asked["user"]) == ("low", "u")


@pytest.mark.slow
async def test_tokens_are_counted_by_the_endpoint() -> None:
    async with scripted_gateway() as (url, chat), official(url) as client:
        counted = await client.messages.count_tokens(
            model="m", messages=HELLO, system="s", tools=TOOLS
        )
        assert counted.input_tokens == 7
        assert [m["role"] for m in chat.bodies[-1]["messages"]] == ["system", "user"]
        assert chat.bodies[-1]["tools"][0]["function"]["name"] == "weather"
    async with echo_gateway() as url, official(url) as client:
        message = await client.messages.create(model="echo", max_tokens=1, messages=HELLO)
        counted = await client.messages.count_tokens(model="echo", messages=HELLO)
        assert counted.input_tokens == message.usage.input_tokens


@pytest.mark.slow
async def test_an_answer_goes_on_with_a_last_message_of_the_assistant() -> None:
    async with scripted_gateway() as (url, chat), official(url) as client:
        begun: list[Any] = [*HELLO, {"role": "assistant", "content": "It is"}]
        await client.messages.create(model="m", max_tokens=9, messages=begun)
        asked = chat.bodies[-1]
        assert asked["messages"][-1] == {"role": "assistant", "content": "It is"}
        assert asked["continue_final_message"] is True
        assert asked["add_generation_prompt"] is False
        await client.messages.count_tokens(model="m", messages=begun)
        assert chat.bodies[-1]["continue_final_message"] is True
        await client.messages.create(model="m", max_tokens=9, messages=HELLO)
        assert "continue_final_message" not in chat.bodies[-1]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "assistant", "content": ""}]}, "prefill"),
    (
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}],
                }
            ]
        },
        "prefill",
    ),
    ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
    ({"messages": [{"role": "user", "content": 3}]}, "content"),
    ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "video"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "x"}}]}]},
        "image",
    ),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
    ({"tool_choice": {"type": "maybe"}}, "tool_choice"),
    ({"tool_choice": {"type": "tool", "name": "none"}}, "tool_choice"),
    ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
    ({"temperature": 1.5}, "temperature"),
]


@pytest.mark.slow
async def test_what_cannot_be_done_is_refused_by_name_in_anthropics_shape() -> None:
    async with scripted_gateway() as (url, chat), aiohttp.ClientSession() as session:
        for fields, named in WRONG:
            body = {"model": "m", "max_tokens": 9, "messages": HELLO} | fields
            async with session.post(f"{url}/v1/messages", json=body) as reply:
                told = await reply.json()
            assert reply.status == 400, fields
            assert told["type"] == "error"
            assert told["error"]["type"] == "invalid_request_error"
            assert named in told["error"]["message"], told
        assert chat.bodies == []


@pytest.mark.slow
async def test_errors_keep_their_kind() -> None:
    async with scripted_gateway(api_keys=("k1",)) as (url, chat):
        async with official(url) as client:
            with pytest.raises(anthropic.NotFoundError):
                await client.messages.create(model="none", max_tokens=1, messages=HELLO)
            await client.messages.create(model="m", max_tokens=1, messages=HELLO)
            chat.answer = lambda body: JSONResponse(
                {"error": {"message": "full", "code": "engine_overloaded"}}, 429
            )
            with pytest.raises(anthropic.RateLimitError, match="full"):
                await client.messages.create(model="m", max_tokens=1, messages=HELLO)
        async with official(url, api_key="wrong") as client:
            with pytest.raises(anthropic.AuthenticationError) as caught:
                await client.messages.create(model="m", max_tokens=1, messages=HELLO)
            assert caught.value.body["error"]["type"] == "authentication_error"


@pytest.mark.slow
async def test_a_stream_that_breaks_ends_with_an_error_event() -> None:
    async with scripted_gateway() as (url, chat), official(url) as client:
        chat.breaks = True
        with pytest.raises(anthropic.APIStatusError, match="it broke"):
            async with client.messages.stream(model="m", max_tokens=9, messages=HELLO) as stream:
                await stream.get_final_message()


@pytest.mark.slow
async def test_fields_without_meaning_are_named() -> None:
    async with scripted_gateway() as (url, chat), aiohttp.ClientSession() as session:
        body = {"model": "m", "max_tokens": 9, "messages": HELLO, "colour": 1, "service_tier": "x"}
        async with session.post(f"{url}/v1/messages", json=body) as reply:
            assert reply.headers["x-fastchat-ignored"] == "colour"
        choice = {"message": {"content": "ok"}, "finish_reason": "stop"}
        named = {"x-fastchat-ignored": "top_k"}
        chat.answer = lambda body: JSONResponse({"choices": [choice]}, headers=named)
        async with session.post(f"{url}/v1/messages", json=body) as reply:
            assert reply.headers["x-fastchat-ignored"] == "colour, top_k"
        async with session.get(f"{url}/v1/messages") as reply:
            assert (reply.status, reply.headers["allow"]) == (405, "POST")


@pytest.mark.slow
async def test_leaving_ends_the_work() -> None:
    engine = EchoEngine(echo_options("echo:delay_ms=20"))
    worker = Worker({"echo": engine}, WorkerSettings())
    body: dict[str, Any] = {"model": "echo", "max_tokens": 4000, "stream": True}
    body["messages"] = [{"role": "user", "content": "x" * 2000}]
    async with (
        serving(worker.app) as inner,
        gateway_to(inner) as url,
        aiohttp.ClientSession() as session,
    ):
        async with session.post(f"{url}/v1/messages", json=body) as reply:
            await reply.content.read(300)
        await until(lambda: engine.aborted_total == 1)
        whole = session.post(f"{url}/v1/messages", json=body | {"stream": False})
        asking = asyncio.ensure_future(whole)
        await until(lambda: engine.stats().running)
        asking.cancel()
        await until(lambda: engine.aborted_total == 2)


@pytest.mark.slow
async def test_the_stop_sequence_that_ended_the_text_is_told() -> None:
    async with echo_gateway() as url, official(url) as client:
        asked: Any = {"model": "echo", "max_tokens": 50, "stop_sequences": ["x", " th"]}
        whole = await client.messages.create(**asked, messages=HELLO)
        async with client.messages.stream(**asked, messages=HELLO) as stream:
            streamed = await stream.get_final_message()
        for message in (whole, streamed):
            assert message.content[0].text == "hi"
            assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " th")
