"""The official openai package against a whole platform: every resource that the gateway has.

vicuna-tiny knows no tools and no schemas: what it calls and fills in is what the engine holds
it to, so these tests say that the protocol works, not that the model is clever.
"""

import io
import json
import time
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from live import LIMIT_S
from pydantic import BaseModel
from real_processes import Platform

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("platform")]

MODEL = "vicuna-tiny"
BATCH_LIMIT_S = 600


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Rome", "Oslo"]
    days: Literal[1, 2, 3]


class Verdict(BaseModel):
    is_good: bool
    colour: Literal["red", "blue"]


TOOL = openai.pydantic_function_tool(Weather, name="weather")
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]


@pytest.fixture
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{platform.gateway_url}/v1", api_key="none", max_retries=0, timeout=LIMIT_S
    ) as client:
        yield client


def test_a_tool_is_called_answered_and_spoken_of(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=[TOOL], tool_choice="required", parallel_tool_calls=False
    )
    (call,) = first.choices[0].message.tool_calls
    assert first.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "weather"
    assert Weather.model_validate_json(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'}
    dialogue = [*ASK, first.choices[0].message, result]
    second = client.chat.completions.create(
        model=MODEL, messages=dialogue, tools=[TOOL], tool_choice="none", max_tokens=20
    )
    assert second.choices[0].message.tool_calls is None
    assert second.choices[0].message.content


def test_a_streamed_call_joins_to_whole_arguments(client: openai.OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "weather"}}
    with client.chat.completions.stream(
        model=MODEL, messages=ASK, tools=[TOOL], tool_choice=named
    ) as stream:
        events = [event.type for event in stream]
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in events
    assert isinstance(message.tool_calls[0].function.parsed_arguments, Weather)


def test_only_allowed_tools_are_called(client: openai.OpenAI) -> None:
    clock: Any = {"type": "function", "function": {"name": "clock"}}
    allowed: Any = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "clock"}}],
        },
    }
    answer = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=[TOOL, clock], tool_choice=allowed, temperature=2, n=3
    )
    names = {call.function.name for c in answer.choices for call in c.message.tool_calls}
    assert names == {"clock"}


def test_parse_gives_the_callers_own_type(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=ASK, response_format=Verdict)
    assert isinstance(answer.choices[0].message.parsed, Verdict)
    called = client.chat.completions.parse(
        model=MODEL, messages=ASK, tools=[TOOL], tool_choice="required", parallel_tool_calls=False
    )
    (call,) = called.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)


def test_streamed_text_has_log_probabilities(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=ASK, temperature=0, logprobs=True, top_logprobs=2
    ) as stream:
        done = stream.get_final_completion()
    tokens = done.choices[0].logprobs.content
    assert tokens and all(len(token.top_logprobs) >= 2 for token in tokens)


def test_a_response_is_told_streamed_and_followed_up(client: openai.OpenAI) -> None:
    first = client.responses.create(
        model=MODEL, instructions="Answer briefly.", input="Who are you?", temperature=0
    )
    assert "vicuna" in first.output_text.lower()
    assert client.responses.retrieve(first.id).output_text == first.output_text
    with client.responses.stream(
        model=MODEL, input="What is 12 + 7?", temperature=0, previous_response_id=first.id
    ) as stream:
        kinds = [event.type for event in stream]
        second = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert "19" in second.output_text
    assert second.previous_response_id == first.id
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_responses_call_tools_and_parse(client: openai.OpenAI) -> None:
    tool: Any = {
        "type": "function",
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": TOOL["function"]["parameters"],
        "strict": True,
    }
    first = client.responses.create(
        model=MODEL, input="Weather in Rome?", tools=[tool], tool_choice="required"
    )
    call = first.output[0]
    assert call.type == "function_call" and Weather.model_validate_json(call.arguments)
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
    second = client.responses.create(
        model=MODEL, input=[output], previous_response_id=first.id, max_output_tokens=20
    )
    assert second.output_text
    parsed = client.responses.parse(model=MODEL, input="Is it good?", text_format=Verdict)
    assert isinstance(parsed.output_parsed, Verdict)


def test_embeddings_are_the_same_in_both_encodings(client: openai.OpenAI) -> None:
    texts = ["a red house", "a blue house"]
    packed = client.embeddings.create(model=MODEL, input=texts)  # base64, which the client undoes
    plain = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    short = client.embeddings.create(model=MODEL, input=texts, dimensions=16)
    assert [len(item.embedding) for item in short.data] == [16, 16]
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 0


def test_a_batch_of_a_file_is_answered(client: openai.OpenAI) -> None:
    lines = [
        {
            "custom_id": f"sum-{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"What is {i} + 7?"}],
                "temperature": 0,
            },
        }
        for i in (12, 13)
    ]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("sums.jsonl", io.BytesIO(data)), purpose="batch")
    assert client.files.content(file.id).read() == data
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    batch = ended(client, batch.id)
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 0)
    written = client.files.content(batch.output_file_id).text.splitlines()
    answers = {row["custom_id"]: row["response"]["body"] for row in map(json.loads, written)}
    assert "19" in answers["sum-12"]["choices"][0]["message"]["content"]
    assert batch.id in [other.id for other in client.batches.list(limit=1)]
    assert client.files.delete(file.id).deleted


def ended(client: openai.OpenAI, batch_id: str) -> Any:
    """The batch when nothing more will happen to it."""
    end = time.monotonic() + BATCH_LIMIT_S
    while time.monotonic() < end:
        batch = client.batches.retrieve(batch_id)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        time.sleep(0.2)
    pytest.fail(f"batch {batch_id} did not end within {BATCH_LIMIT_S} s")


async def test_the_asynchronous_client_asks_side_by_side(platform: Platform) -> None:
    import asyncio

    async with openai.AsyncOpenAI(
        base_url=f"{platform.gateway_url}/v1", api_key="none", max_retries=0
    ) as client:
        questions = [[{"role": "user", "content": f"What is {i} + 7?"}] for i in (12, 3)]
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(model=MODEL, messages=q, temperature=0)  # type: ignore[arg-type]
                for q in questions
            )
        )
    texts = [answer.choices[0].message.content or "" for answer in answers]
    assert "19" in texts[0] and "10" in texts[1]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"functions": [{"name": "f", "parameters": {}}]}, "functions"),
        ({"function_call": "auto", "functions": [{"name": "f"}]}, "functions"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"messages": [*ASK, {"role": "assistant", "audio": {"id": "a"}}]}, "messages[1]"),
        (
            {
                "messages": [
                    {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}
                ]
            },
            "messages[0]",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}
                ]
            },
            "messages[0]",
        ),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"extra_body": {"chat_template": "{{ x }}"}}, "chat_template"),
        ({"extra_body": {"continue_final_message": True}}, "continue_final_message"),
        ({"extra_body": {"min_tokens": 5}}, "min_tokens"),
        ({"extra_body": {"prompt_logprobs": 1}}, "prompt_logprobs"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name(
    client: openai.OpenAI, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": MODEL, "messages": ASK, **options})
    assert (caught.value.body["param"] or "").startswith(param)


def test_every_published_field_of_a_chat_has_an_effect_or_is_named(client: openai.OpenAI) -> None:
    """The header names what has none, beside those that docs/api.md lists."""
    reply = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=ASK,
        max_completion_tokens=2,
        user="me",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        safety_identifier="s",
        prompt_cache_key="k",
        verbosity="low",
        reasoning_effort="low",
        extra_body={"flavour": "sweet"},
    )
    named = {name.strip() for name in reply.headers["x-fastchat-ignored"].split(",")}
    assert named == {"reasoning_effort", "flavour"}
