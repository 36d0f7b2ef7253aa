"""The official anthropic package against a whole platform, as its documents show."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from live import LIMIT_S
from pydantic import BaseModel
from real_processes import Platform

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("platform")]

MODEL = "vicuna-tiny"
WHO: list[Any] = [{"role": "user", "content": "Who are you?"}]
COLD = {"temperature": 0}
"""The package has no argument for it any more; the protocol has."""
TOOL: Any = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


class Verdict(BaseModel):
    is_good: bool


@pytest.fixture
def client(platform: Platform) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=platform.gateway_url, api_key="none", max_retries=0, timeout=LIMIT_S
    ) as client:
        yield client


def test_a_message_says_who_it_is_and_counts_its_tokens(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=MODEL, max_tokens=60, messages=WHO, extra_body=COLD)
    assert "vicuna" in message.content[0].text.lower()
    assert message.stop_reason == "end_turn"
    counted = client.messages.count_tokens(model=MODEL, messages=WHO).input_tokens
    used = message.usage
    assert counted == used.input_tokens + (used.cache_read_input_tokens or 0)


def test_a_stream_joins_to_the_plain_message(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 60,
        "messages": WHO,
        "system": "Be brief.",
        "extra_body": COLD,
    }
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == client.messages.create(**asked).content[0].text
    kinds = [event.type for event in client.messages.create(**asked, stream=True)]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


def test_a_tool_is_called_answered_and_spoken_of(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 60, "tools": [TOOL]}
    first = client.messages.create(
        **asked, messages=WHO, tool_choice={"type": "any", "disable_parallel_tool_use": True}
    )
    (call,) = [block for block in first.content if block.type == "tool_use"]
    assert first.stop_reason == "tool_use"
    assert call.input["city"] in ("Rome", "Oslo")
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "sun"}
    dialogue = [
        *WHO,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = client.messages.create(**asked, messages=dialogue, tool_choice={"type": "none"})
    assert second.content[0].text
    with client.messages.stream(
        **asked, messages=WHO, tool_choice={"type": "tool", "name": "weather"}
    ) as stream:
        pieces = [e.partial_json for e in stream if e.type == "input_json"]
        streamed = stream.get_final_message()
    assert pieces and streamed.content[0].input["city"] in ("Rome", "Oslo")


def test_parse_gives_the_callers_own_type(client: anthropic.Anthropic) -> None:
    message = client.messages.parse(model=MODEL, max_tokens=60, messages=WHO, output_format=Verdict)
    assert isinstance(message.parsed_output, Verdict)


def test_a_stop_sequence_is_told(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        model=MODEL, max_tokens=60, messages=WHO, extra_body=COLD, stop_sequences=["small"]
    )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "small")
    assert "small" not in message.content[0].text


def test_models_are_listed(client: anthropic.Anthropic) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model": "nobody"}, anthropic.NotFoundError),
        ({"max_tokens": -1}, anthropic.BadRequestError),
        ({"messages": []}, anthropic.BadRequestError),
        ({"container": "c"}, anthropic.BadRequestError),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, None),
    ],
)
def test_errors_are_the_clients_own_classes(
    client: anthropic.Anthropic,
    options: dict[str, Any],
    error: type[anthropic.APIStatusError] | None,
) -> None:
    asked = {"model": MODEL, "max_tokens": 20, "messages": WHO, **options}
    with pytest.raises(error or anthropic.BadRequestError) as caught:
        client.messages.create(**asked)
    assert caught.value.body["type"] == "error"
