"""The formats of single model families, their marks as tokens, on a tiny random model."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from fastchat.engine.base import Engine
from fastchat.engine.echo import EchoEngine, EchoOptions
from fastchat.families.formats import tool_formats
from fastchat.message import ToolCall
from fastchat.model.tool_text import written
from tests.serve.test_worker_tools import (
    ADDED,
    ASK,
    CLOCK,
    SPECIAL,
    TEMPLATES,
    TURNS,
    WEATHER,
    check_weather,
    client_of,
    running,
    streamed,
    weights,
)

__all__ = ["weights"]  # a fixture

READS = "{% if tools %}{{ tools | tojson }}{# MARKS #}{% endif %}" + TURNS
FORMATS = ["qwen3-coder", "glm", "deepseek-v3", "kimi-k2", "minimax"]
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}<|channel|>final<|message|>{{ m.content }}<|end|>"
    "{% endfor %}{% if tools %}functions.{% endif %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


@pytest.fixture(params=FORMATS)
async def engine(
    request: pytest.FixtureRequest, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Engine]:
    form = tool_formats()[request.param]
    marks = " ".join(form.template_marks[0])
    monkeypatch.setitem(TEMPLATES, form.name, READS.replace("MARKS", marks))
    special = {m for m in (*form.marks, *form.template_marks[0]) if re.fullmatch("<[^<>=]+>", m)}
    monkeypatch.setattr("tests.serve.test_worker_tools.SPECIAL", [*SPECIAL, *sorted(special)])
    async with running(weights, form.name) as engine:
        assert engine.info.tool_format == form
        yield engine


@pytest.fixture
async def harmony(weights: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    form = tool_formats()["harmony"]
    monkeypatch.setitem(TEMPLATES, "harmony", HARMONY)
    monkeypatch.setattr("tests.serve.test_worker_tools.SPECIAL", [*SPECIAL, *form.texts])
    async with running(weights, "harmony") as engine:
        assert engine.info.tool_format == form
        assert set(engine.info.special_ids) == set(form.texts)
        yield engine


@pytest.mark.slow
async def test_a_required_call_is_whole_and_streams_alike(engine: Engine) -> None:
    fields: Any = {"messages": ASK, "tools": [WEATHER, CLOCK], "tool_choice": "required"}
    fields |= {"seed": 1, "max_tokens": 300, "parallel_tool_calls": False}
    async with client_of(engine) as client:
        for name in ("weather", "clock"):
            fields["tool_choice"] = {"type": "function", "function": {"name": name}}
            reply = await client.chat.completions.create(model="m", **fields)
            choice = reply.choices[0]
            (call,) = list(choice.message.tool_calls or ())
            assert call.type == "function" and call.function.name == name
            assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
            if name == "weather":
                check_weather(call.function.arguments)
            content, calls, reason = await streamed(client, **fields)
            assert (content, reason) == ("", "tool_calls")
            assert [c["arguments"] for c in calls] == [call.function.arguments]
            if engine.info.tool_format.id_prefix:
                assert call.id.startswith(f"functions.{name}:")


@pytest.mark.slow
async def test_several_calls_and_a_begun_one_are_held_to_their_tools(engine: Engine) -> None:
    begin = engine.info.special_ids[engine.info.tool_format.begin]
    counts: set[int] = set()
    bias = {str(engine.tokenize("\n", add_special_tokens=False)[0]): 5}
    async with client_of(engine) as client:
        for fields in (
            {"tool_choice": "required", "logit_bias": bias},
            {"logit_bias": {str(begin): 100, **bias}},
        ):
            reply = await client.chat.completions.create(
                model="m",
                messages=ASK,
                tools=[WEATHER],  # type: ignore[list-item]
                n=6,
                seed=4,
                temperature=2.0,
                max_tokens=500,
                **fields,  # type: ignore[arg-type]
            )
            for choice in reply.choices:
                calls = choice.message.tool_calls or []
                counts.add(len(calls))
                assert len({call.id for call in calls}) == len(calls)
                for call in calls[: None if choice.finish_reason == "tool_calls" else -1]:
                    assert call.type == "function"
                    check_weather(call.function.arguments)
    assert max(counts) > 1


@pytest.mark.slow
async def test_harmony_thinks_calls_and_speaks(harmony: Engine) -> None:
    ids = harmony.info.special_ids
    async with client_of(harmony) as client:
        fields: Any = {"messages": ASK, "tools": [WEATHER], "seed": 1, "max_tokens": 300}
        # Words end soon where a mark is likely, and a thought is more likely than the end of all.
        fields["logit_bias"] = {str(ids["<|end|>"]): 60}
        reply = await client.chat.completions.create(model="m", tool_choice="required", **fields)
        choice = reply.choices[0]
        (call,) = list(choice.message.tool_calls or ())
        assert call.type == "function" and choice.finish_reason == "tool_calls"
        check_weather(call.function.arguments)
        content, calls, reason = await streamed(client, tool_choice="required", **fields)
        assert reason == "tool_calls" and content == (choice.message.content or "")
        assert [c["arguments"] for c in calls] == [call.function.arguments]
        held = await client.chat.completions.create(
            model="m",
            messages=ASK,
            max_tokens=200,
            seed=2,
            logit_bias=fields["logit_bias"],
            extra_body={"guided_regex": "[0-9]{3}"},
        )
        assert (held.choices[0].message.content or "").isdigit()
        free = await client.chat.completions.create(model="m", messages=ASK, max_tokens=8, seed=1)
        assert free.choices[0].finish_reason in ("length", "stop")
        assert "<|" not in (free.choices[0].message.content or "")


async def test_harmony_of_a_model_comes_apart() -> None:
    call = written(
        (ToolCall(id="", name="clock", arguments='{"a": "ü"}'),), tool_formats()["harmony"]
    )
    thought = "<|channel|>analysis<|message|>let me see<|end|><|start|>assistant"
    cases = [
        (f"{thought}{call}", "", ["clock"], "tool_calls"),
        (f"{thought}<|channel|>final<|message|>Noon.<|return|>", "Noon.", [], "stop"),
    ]
    engine = EchoEngine(EchoOptions(tools="harmony", reasoning="harmony"))
    async with client_of(engine) as client:
        for text, said, names, reason in cases:
            fields: Any = {"messages": [{"role": "user", "content": text}], "tools": [CLOCK]}
            reply = await client.chat.completions.create(model="m", **fields)
            message = reply.choices[0].message
            assert message.model_extra is not None
            assert message.model_extra["reasoning_content"] == "let me see"
            assert (message.content or "") == said
            assert [
                c.function.name for c in message.tool_calls or [] if c.type == "function"
            ] == names
            assert reply.choices[0].finish_reason == reason
            assert reply.usage is not None and reply.usage.completion_tokens_details is not None
            assert reply.usage.completion_tokens_details.reasoning_tokens
            content, calls, ended = await streamed(client, **fields)
            assert (content, [c["name"] for c in calls], ended) == (said, names, reason)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "llama3"])
async def test_a_bare_call_that_the_model_begins_is_held_to_its_tool(
    weights: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One token is made the beginning of a call, and the model made to begin with it."""
    head = '{"name": "weather"'
    monkeypatch.setattr("tests.serve.test_worker_tools.ADDED", [*ADDED, head, '{"x'])
    async with running(weights, form) as engine, client_of(engine) as client:
        fields: Any = {"model": "m", "messages": ASK, "tools": [WEATHER], "seed": 3}
        fields |= {"parallel_tool_calls": False, "max_tokens": 100}
        (begin,) = engine.tokenize(head, add_special_tokens=False)
        reply: Any = await client.chat.completions.create(**fields, logit_bias={str(begin): 100})
        (call,) = list(reply.choices[0].message.tool_calls or ())
        check_weather(call.function.arguments)
        assert reply.choices[0].finish_reason == "tool_calls"
        # Other JSON is a text like any other, which the format's own stops end.
        (begin,) = engine.tokenize('{"x', add_special_tokens=False)
        reply = await client.chat.completions.create(**fields, logit_bias={str(begin): 100})
        assert (reply.choices[0].message.content or "").startswith('{"x{"x{"x')
        monkeypatch.setattr(engine, "_loaded", replace(engine._loaded, stop=("x{",)))  # type: ignore[attr-defined]
        reply = await client.chat.completions.create(**fields, logit_bias={str(begin): 100})
        assert reply.choices[0].message.content == '{"'
        assert reply.choices[0].finish_reason == "stop"


@pytest.mark.slow
async def test_an_answer_goes_on_with_the_last_message(weights: Path) -> None:
    async with running(weights, "hermes") as engine, client_of(engine) as client:
        begun: list[Any] = [*ASK, {"role": "assistant", "content": "It is"}]
        fields: Any = {"model": "m", "messages": begun, "max_tokens": 6, "temperature": 0}
        extra = {"continue_final_message": True, "add_generation_prompt": False}
        reply = await client.chat.completions.create(**fields, extra_body=extra)
        prompt = "user: Weather in Rome?\nassistant: It is"
        plain = await client.completions.create(
            model="m",
            prompt=engine.tokenize(prompt, add_special_tokens=False),
            max_tokens=6,
            temperature=0,
        )
        assert reply.choices[0].message.content == plain.choices[0].text
        assert reply.usage is not None and plain.usage is not None
        assert reply.usage.prompt_tokens == plain.usage.prompt_tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("messages", "extra"),
    [
        (ASK, {"continue_final_message": True}),
        ([*ASK, {"role": "assistant", "content": ""}], {"continue_final_message": True}),
        (
            [*ASK, {"role": "assistant", "content": "a"}],
            {"continue_final_message": True, "add_generation_prompt": True},
        ),
        ("a text", {"continue_final_message": True}),
    ],
)
async def test_what_cannot_be_gone_on_with_is_refused(messages: Any, extra: dict[str, Any]) -> None:
    async with client_of(EchoEngine()) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(
                model="m", messages=messages, extra_body={**extra, "messages": messages}
            )
        assert refused.value.param == "continue_final_message"


@pytest.mark.slow
async def test_reasoning_that_was_begun_goes_on_as_reasoning(weights: Path) -> None:
    async with running(weights, "think") as engine, client_of(engine) as client:
        end = engine.tokenize("</think>", add_special_tokens=False)[0]
        begun: list[Any] = [*ASK, {"role": "assistant", "content": "<think>\nLet me"}]
        reply = await client.chat.completions.create(
            model="m",
            messages=begun,
            max_tokens=6,
            seed=1,
            logit_bias={str(end): -100},
            extra_body={"continue_final_message": True},
        )
        assert reply.choices[0].message.content == ""
        assert reply.choices[0].message.model_extra
