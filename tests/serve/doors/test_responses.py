import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from openai.types.responses import Response as OfficialResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from scripted_chat import call_deltas, echo_gateway, scripted_gateway
from starlette.responses import JSONResponse

EVENT = TypeAdapter(ResponseStreamEvent)

TOOL = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}


@contextlib.asynccontextmanager
async def official(url: str, key: str = "k1") -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield client


async def raw_events(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, each checked against the official client's own records."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/responses", json=body | {"stream": True}) as reply,
    ):
        assert reply.status == 200, await reply.text()
        raw = (await reply.read()).decode()
    events: list[dict[str, Any]] = []
    for part in raw.strip().split("\n\n"):
        name, data = part.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        EVENT.validate_python(value)
        events.append(value)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


@pytest.mark.slow
async def test_the_official_client_asks_streams_and_goes_on() -> None:
    async with echo_gateway() as url, official(url) as client:
        first = await client.responses.create(model="echo", input="hi there")
        assert first.output_text == "hi there"
        assert (first.status, first.object) == ("completed", "response")
        assert first.usage is not None and first.usage.output_tokens == 8
        async with client.responses.stream(
            model="echo", input="and more", previous_response_id=first.id
        ) as stream:
            kinds = [event.type async for event in stream]
            second = await stream.get_final_response()
        assert second.output_text == "and more"
        assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
        assert second.usage is not None
        assert second.usage.input_tokens > first.usage.input_tokens + 8
        counted = await client.responses.input_tokens.count(
            model="echo", input="and more", previous_response_id=first.id
        )
        assert counted.input_tokens == second.usage.input_tokens


@pytest.mark.slow
async def test_reasoning_text_and_calls_become_items_in_both_ways() -> None:
    async with scripted_gateway() as (url, chat):
        chat.deltas = [
            {"reasoning_content": "I "},
            {"reasoning_content": "think"},
            {"content": "Let me "},
            {"content": "look."},
            *call_deltas(0, "weather", '{"city": ', '"Ghent"}'),
            *call_deltas(1, "weather", "{}"),
        ]
        chat.reason = "tool_calls"
        body = {"model": "m", "input": "hi", "tools": [TOOL]}
        events = await raw_events(url, body)
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/responses", json=body) as reply,
        ):
            whole = await reply.json()
        streamed = events[-1]["response"]
        for response in (whole, streamed):
            OfficialResponse.model_validate(response)
            reasoning, message, first, second = response["output"]
            assert reasoning["content"] == [{"type": "reasoning_text", "text": "I think"}]
            assert message["content"][0]["text"] == "Let me look."
            assert (first["type"], first["call_id"]) == ("function_call", "call_0")
            assert (first["arguments"], second["arguments"]) == ('{"city": "Ghent"}', "{}")
            assert {item["status"] for item in response["output"]} == {"completed"}
            assert response["usage"]["input_tokens_details"]["cached_tokens"] == 4
            assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == 2
            assert response["usage"]["total_tokens"] == 15
        kinds = [event["type"].removeprefix("response.") for event in events]
        assert kinds == [
            *("created", "in_progress"),
            *("output_item.added", "content_part.added"),
            *("reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done"),
            *("content_part.done", "output_item.done"),
            *("output_item.added", "content_part.added"),
            *("output_text.delta", "output_text.delta", "output_text.done"),
            *("content_part.done", "output_item.done", "output_item.added"),
            *("function_call_arguments.delta", "function_call_arguments.delta"),
            *("function_call_arguments.done", "output_item.done", "output_item.added"),
            *("function_call_arguments.delta", "function_call_arguments.done"),
            *("output_item.done", "completed"),
        ]


async def test_every_kind_of_item_reaches_the_chat() -> None:
    async with scripted_gateway() as (url, chat), official(url) as client:
        await client.responses.create(
            model="m",
            instructions="Be kind.",
            input=[
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "look"},
                        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                    ],
                },
                {
                    "type": "reasoning",
                    "id": "rs",
                    "summary": [{"type": "summary_text", "text": "h"}],
                },
                {"role": "assistant", "content": "I look"},
                {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
                {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "sun"},
                {
                    "type": "function_call_output",
                    "call_id": "c2",
                    "output": [{"type": "input_text", "text": "rain"}],
                },
                {"type": "message", "role": "developer", "content": "be short"},
            ],
            tools=[TOOL, TOOL | {"name": "other"}],
            tool_choice={
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "weather"}],
            },
            parallel_tool_calls=False,
            text={
                "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}},
                "verbosity": "low",
            },
            reasoning={"effort": "low"},
            max_output_tokens=20,
            temperature=0.5,
            top_logprobs=2,
            include=["message.output_text.logprobs"],
        )
    asked = chat.bodies[-1]
    system, user, mine, sun, rain, developer = asked["messages"]
    assert system == {"role": "system", "content": "Be kind."}
    assert user["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,AAAA"},
    }
    assert (mine["reasoning_content"], mine["content"]) == ("h", "I look")
    assert [call["id"] for call in mine["tool_calls"]] == ["c1", "c2"]
    assert sun == {"role": "tool", "tool_call_id": "c1", "content": "sun"}
    assert rain["content"] == "rain"
    assert developer == {"role": "developer", "content": "be short"}
    assert [tool["function"]["name"] for tool in asked["tools"]] == ["weather"]
    assert asked["tools"][0]["function"]["strict"] is True
    assert (asked["tool_choice"], asked["parallel_tool_calls"]) == ("required", False)
    assert asked["response_format"]["json_schema"]["name"] == "n"
    assert (asked["reasoning_effort"], asked["verbosity"]) == ("low", "low")
    assert (asked["max_tokens"], asked["temperature"]) == (20, 0.5)
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 2)


@pytest.mark.slow
async def test_log_probabilities_come_with_the_text() -> None:
    async with echo_gateway() as url:
        body = {"model": "echo", "input": "ab", "include": ["message.output_text.logprobs"]}
        events = await raw_events(url, body | {"top_logprobs": 1})
    part = events[-1]["response"]["output"][0]["content"][0]
    assert [entry["token"] for entry in part["logprobs"]] == ["a", "b"]
    assert len(part["logprobs"][0]["top_logprobs"]) == 1


@pytest.mark.slow
async def test_a_cut_answer_is_incomplete_and_a_refusal_a_part_of_its_own() -> None:
    async with scripted_gateway() as (url, chat), official(url) as client:
        chat.reason = "length"
        response = await client.responses.create(model="m", input="hi")
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"
        chat.reason, chat.deltas = "stop", [{"refusal": "I "}, {"refusal": "won't"}]
        events = await raw_events(url, {"model": "m", "input": "hi"})
        part = events[-1]["response"]["output"][0]["content"][0]
        assert part == {"type": "refusal", "refusal": "I won't"}


@pytest.mark.slow
async def test_stored_responses_are_read_listed_and_deleted() -> None:
    async with scripted_gateway() as (url, chat), official(url) as client:
        first = await client.responses.create(model="m", input="one", metadata={"a": "b"})
        read = await client.responses.retrieve(first.id)
        assert read == first
        second = await client.responses.create(
            model="m",
            input=[{"role": "user", "content": "two"}, {"role": "user", "content": "three"}],
            previous_response_id=first.id,
            instructions="new",
        )
        said = [m["content"] for m in chat.bodies[-1]["messages"]]
        assert said == ["new", "one", "ok", "two", "three"]
        page = await client.responses.input_items.list(second.id, order="asc", limit=1)
        assert page.data[0].content[0].text == "two"
        assert page.has_more
        items = [item async for item in client.responses.input_items.list(second.id, limit=1)]
        assert [item.content[0].text for item in items] == ["three", "two"]
        await client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first.id)
        with pytest.raises(openai.NotFoundError, match="go on from"):
            await client.responses.create(model="m", input="x", previous_response_id=second.id)
        silent = await client.responses.create(model="m", input="x", store=False)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(silent.id)


@pytest.mark.slow
async def test_the_background_is_asked_for_and_cancelled() -> None:
    async with echo_gateway("echo:delay_ms=1") as url, official(url) as client:
        made = await client.responses.create(model="echo", input="hello", background=True)
        assert made.status == "queued"
        while made.status in ("queued", "in_progress"):
            made = await client.responses.retrieve(made.id)
        assert (made.status, made.output_text) == ("completed", "hello")
        long = await client.responses.create(model="echo", input="x" * 3000, background=True)
        assert (await client.responses.cancel(long.id)).status == "cancelled"
        assert (await client.responses.retrieve(long.id)).status == "cancelled"
        with pytest.raises(openai.BadRequestError, match="background"):
            plain = await client.responses.create(model="echo", input="x")
            await client.responses.cancel(plain.id)


@pytest.mark.slow
async def test_a_failure_in_the_background_is_told() -> None:
    async with echo_gateway("echo:fail_on=bad") as url, official(url) as client:
        made = await client.responses.create(model="echo", input="bad", background=True)
        while made.status in ("queued", "in_progress"):
            made = await client.responses.retrieve(made.id)
        assert made.status == "failed"
        assert made.error is not None and "told to" in made.error.message


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"input": []}, "input"),
    ({"input": 3}, "input"),
    ({"input": [{"type": "computer_call"}]}, "computer_call"),
    ({"input": [{"role": "robot", "content": "x"}]}, "role"),
    ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input_file"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "call_id"),
    ({"tools": [{"type": "web_search"}]}, "web_search"),
    ({"tools": [{"type": "function"}]}, "name"),
    ({"tools": [TOOL, TOOL]}, "different"),
    ({"tool_choice": "sometimes"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "none"}}, "tool_choice"),
    ({"tool_choice": "required"}, "tools"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
    ({"include": ["file_search_call.results"]}, "file_search_call.results"),
    ({"truncation": "auto"}, "truncation"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True, "store": False}, "store"),
    ({"metadata": {"a": 1}}, "metadata"),
]


@pytest.mark.slow
async def test_what_cannot_be_done_is_refused_by_name() -> None:
    async with scripted_gateway() as (url, chat), aiohttp.ClientSession() as session:
        for fields, named in WRONG:
            body = {"model": "m", "input": "hi"} | fields
            async with session.post(f"{url}/v1/responses", json=body) as reply:
                told = await reply.json()
            assert reply.status == 400, fields
            assert named in told["error"]["message"], told
            assert told["error"]["param"], told
        assert chat.bodies == []


@pytest.mark.slow
async def test_errors_before_and_within_a_stream() -> None:
    async with scripted_gateway() as (url, chat), official(url) as client:
        chat.breaks = True
        events = await raw_events(url, {"model": "m", "input": "hi"})
        assert events[-1]["type"] == "response.failed"
        assert events[-1]["response"]["error"]["message"] == "it broke"
        chat.answer = lambda body: JSONResponse({"error": {"message": "full", "code": "x"}}, 429)
        with pytest.raises(openai.RateLimitError, match="full"):
            await client.responses.create(model="m", input="hi", stream=True)


@pytest.mark.slow
async def test_one_key_sees_nothing_of_anothers_responses() -> None:
    async with (
        scripted_gateway(api_keys=("k1", "k2")) as (url, _),
        official(url) as client,
        official(url, "k2") as stranger,
    ):
        made = await client.responses.create(model="m", input="secret", background=True)
        for ask in (
            stranger.responses.retrieve,
            stranger.responses.delete,
            stranger.responses.cancel,
            stranger.responses.input_items.list,
        ):
            with pytest.raises(openai.NotFoundError):
                await ask(made.id)
        with pytest.raises(openai.NotFoundError):
            await stranger.responses.create(model="m", input="x", previous_response_id=made.id)
        assert (await client.responses.retrieve(made.id)).id == made.id
