"""Tools, constraints and reasoning through the official client, on a tiny random model."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from in_process import serving
from schemas import Person, Verdict

from fastchat.engine.base import Engine
from fastchat.engine.choose import EngineSettings, open_engine
from fastchat.engine.echo import EchoEngine, EchoOptions
from fastchat.model.load import ModelSettings
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings
from tests.engine.conftest import config_of, make_tokenizer

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Rome", "Oslo"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
ASK: list[Any] = [{"role": "user", "content": "Weather in Rome?"}]

DEEP: dict[str, Any] = {"type": "object"}
for _ in range(300):
    DEEP = {"properties": {"a": DEEP}}

TURNS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
TEMPLATES = {
    "hermes": "{% if tools %}{{ tools | tojson }} <tool_call></tool_call>{% endif %}" + TURNS,
    "mistral": "{% if tools %}{{ tools | tojson }}[TOOL_CALLS]{% endif %}" + TURNS,
    "mistral-named": "{% if tools %}{{ tools | tojson }}[TOOL_CALLS][ARGS]{% endif %}" + TURNS,
    "llama3": "{% if tools %}{{ tools | tojson }}<|python_tag|>{% endif %}" + TURNS,
    "json": TURNS,
    "think": TURNS + "{% if add_generation_prompt %}</think>{% endif %}",
    "opened": TURNS + "{% if enable_thinking is not defined or enable_thinking %}<think>\n"
    "{% else %}<think>\n</think>{% endif %}",
}
THINK = ("<think>", "</think>")
SPECIAL = ["[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"]
ADDED = [*THINK, "<tool_call>", "</tool_call>"]
"""Tokens that are not special, as Qwen's tokenizers have them."""


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("tools")
    config = config_of("llama")
    config.max_position_embeddings = 1024
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@asynccontextmanager
async def running(weights: Path, form: str) -> AsyncIterator[Engine]:
    """The model with the chat template of a format."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.add_tokens(ADDED)
    tokenizer.chat_template = TEMPLATES[form]
    tokenizer.save_pretrained(weights)
    engine = await open_engine(
        ModelSettings(model_path=str(weights), device="cpu", num_threads=1),
        EngineSettings(max_running=8, max_cached_tokens=8192),
    )
    try:
        yield engine
    finally:
        await engine.stop(0.0)


@asynccontextmanager
async def client_of(engine: Engine, **settings: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    app = Worker({"m": engine}, WorkerSettings(**settings)).app
    async with (
        serving(app) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


@pytest.fixture(
    params=[
        *("hermes", "json"),
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("mistral", "mistral-named", "llama3")),
    ]
)
async def engine(request: pytest.FixtureRequest, weights: Path) -> AsyncIterator[Engine]:
    async with running(weights, request.param) as engine:
        assert engine.info.tool_format.name == request.param
        yield engine


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(engine) as client:
        yield client


def check_weather(arguments: str) -> None:
    value = json.loads(arguments)
    assert value.keys() == {"city", "days"}
    assert value["city"] in ("Rome", "Oslo") and 1 <= value["days"] <= 7


async def streamed(client: openai.AsyncOpenAI, **fields: Any) -> tuple[str, list[Any], str]:
    """Content, calls and finish reason of a stream, its events checked on the way."""
    content, calls, reason = "", [], ""
    stream = await client.chat.completions.create(model="m", stream=True, **fields)
    async for chunk in stream:
        delta = chunk.choices[0].delta
        content += delta.content or ""
        for piece in delta.tool_calls or ():
            if piece.id is not None:
                assert piece.index == len(calls) and piece.function and piece.function.name
                calls.append({"id": piece.id, "name": piece.function.name, "arguments": ""})
            assert piece.function is not None
            calls[piece.index]["arguments"] += piece.function.arguments or ""
        reason = chunk.choices[0].finish_reason or reason
    return content, calls, reason


@pytest.mark.slow
@pytest.mark.parametrize("is_strict", [False, True])
async def test_a_required_call_is_made_by_random_weights(
    client: openai.AsyncOpenAI, is_strict: bool
) -> None:
    tool: Any = {**WEATHER, "function": {**WEATHER["function"], "strict": is_strict}}
    fields: Any = {"messages": ASK, "tools": [tool], "tool_choice": "required", "seed": 1}
    fields |= {"parallel_tool_calls": False, "max_tokens": 200}
    reply = await client.chat.completions.create(model="m", **fields)
    choice = reply.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function" and call.function.name == "weather"
    check_weather(call.function.arguments)
    content, calls, reason = await streamed(client, **fields)
    assert (content, reason) == ("", "tool_calls")
    assert [c["arguments"] for c in calls] == [call.function.arguments]


@pytest.mark.slow
async def test_the_named_tool_is_called(client: openai.AsyncOpenAI) -> None:
    for name in ("clock", "weather"):
        reply = await client.chat.completions.create(
            model="m",
            messages=ASK,
            tools=[WEATHER, CLOCK],  # type: ignore[list-item]
            tool_choice={"type": "function", "function": {"name": name}},
            seed=2,
            max_tokens=300,
            logit_bias={"95": 20},  # }, so that free objects end
        )
        (call,) = reply.choices[0].message.tool_calls or ()
        assert call.type == "function" and call.function.name == name


@pytest.mark.slow
async def test_several_calls_have_their_own_ids(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model="m",
        messages=ASK,
        tools=[WEATHER],  # type: ignore[list-item]
        tool_choice="required",
        n=8,
        seed=4,
        temperature=2.0,
        max_tokens=400,
    )
    counts: set[int] = set()
    for choice in reply.choices:
        calls = choice.message.tool_calls or []
        counts.add(len(calls))
        assert len({call.id for call in calls}) == len(calls)
        if choice.finish_reason == "tool_calls":
            for call in calls:
                assert call.type == "function"
                check_weather(call.function.arguments)
    assert max(counts) > 1


@pytest.mark.slow
@pytest.mark.parametrize("form", ["hermes", "mistral", "mistral-named", "llama3"])
async def test_a_call_that_the_model_begins_is_held_to_its_tool(weights: Path, form: str) -> None:
    async with running(weights, form) as engine, client_of(engine) as client:
        mark = engine.info.special_ids[engine.info.tool_format.begin]
        reply = await client.chat.completions.create(
            model="m",
            messages=ASK,
            tools=[WEATHER],  # type: ignore[list-item]
            parallel_tool_calls=False,
            seed=1,
            max_tokens=200,
            logit_bias={str(mark): 100},
        )
        (call,) = reply.choices[0].message.tool_calls or ()
        assert call.type == "function"
        check_weather(call.function.arguments)
        assert reply.choices[0].finish_reason == "tool_calls"


@pytest.mark.slow
async def test_without_a_call_an_answer_is_text(client: openai.AsyncOpenAI) -> None:
    for choice in ("auto", "none"):
        reply = await client.chat.completions.create(
            model="m",
            messages=ASK,
            tools=[WEATHER],  # type: ignore[list-item]
            tool_choice=choice,  # type: ignore[arg-type]
            max_tokens=8,
            seed=1,
        )
        assert reply.choices[0].message.content
        assert reply.choices[0].message.tool_calls is None
        assert reply.choices[0].finish_reason in ("length", "stop")


@pytest.mark.slow
async def test_calls_and_results_of_earlier_turns_reach_the_prompt(engine: Engine) -> None:
    call = {"name": "weather", "arguments": '{"city": "Rome", "days": 1}'}
    body = {
        "model": "m",
        "messages": [
            *ASK,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "abcdefghi", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "abcdefghi", "content": "sunny"},
        ],
        "tools": [WEATHER],
    }
    app = Worker({"m": engine}, WorkerSettings()).app
    async with serving(app) as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/tokenize", json=body) as reply:
            assert reply.status == 200
            ids = (await reply.json())["tokens"]
        async with session.post(
            f"{url}/v1/chat/completions", json={**body, "max_tokens": 2}
        ) as reply:
            assert reply.status == 200, await reply.text()
    text = engine.detokenize(ids)
    assert "The weather of a city." in text and "sunny" in text
    if engine.info.tool_format.name == "json":
        assert '{"name": "weather", "arguments": {"city": "Rome", "days": 1}}' in text
        assert "Result of the function weather:" in text


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
async def test_response_format_is_kept(weights: Path, stream: bool) -> None:
    wanted: Any = {
        "type": "json_schema",
        "json_schema": {"name": "p", "schema": Person.model_json_schema(), "strict": True},
    }
    async with running(weights, "hermes") as engine, client_of(engine) as client:
        fields: Any = {"messages": ASK, "response_format": wanted, "max_tokens": 200, "seed": 1}
        if stream:
            content, _, reason = await streamed(client, **fields)
        else:
            reply = await client.chat.completions.create(model="m", **fields)
            content, reason = reply.choices[0].message.content or "", reply.choices[0].finish_reason
        assert reason == "stop"
        Person.model_validate_json(content)


@pytest.mark.slow
async def test_schema_or_call_may_both_be_offered(weights: Path) -> None:
    wanted: Any = {
        "type": "json_schema",
        "json_schema": {"name": "v", "schema": Verdict.model_json_schema()},
    }
    async with running(weights, "hermes") as engine, client_of(engine) as client:
        reply = await client.chat.completions.create(
            model="m",
            messages=ASK,
            tools=[WEATHER],  # type: ignore[list-item]
            response_format=wanted,
            parallel_tool_calls=False,
            max_tokens=200,
            n=8,
            seed=1,
        )
        kinds: set[str] = set()
        for choice in reply.choices:
            calls = choice.message.tool_calls or []
            kinds.add("call" if calls else "text")
            for call in calls:
                assert call.type == "function"
                check_weather(call.function.arguments)
            if not calls:
                Verdict.model_validate_json(choice.message.content or "")
        assert kinds == {"call", "text"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"guided_choice": ["left", "right"]}, "left|right"),
        ({"guided_regex": "[0-9]{4}"}, "[0-9]{4}"),
        ({"guided_json": {"enum": [1, 2]}}, "1|2"),
        ({"guided_grammar": 'start: "a" "b"'}, "ab"),
        ({"structured_outputs": {"regex": "x{3}"}}, "xxx"),
        ({"structured_outputs": {"choice": ["up"]}}, "up"),
    ],
)
async def test_the_published_fields_for_other_forms(
    weights: Path, fields: dict[str, Any], text: str
) -> None:
    import re

    async with running(weights, "json") as engine, client_of(engine) as client:
        chat = await client.chat.completions.create(model="m", messages=ASK, extra_body=fields)
        assert re.fullmatch(text, chat.choices[0].message.content or "")
        completion = await client.completions.create(model="m", prompt="x", extra_body=fields)
        assert re.fullmatch(text, completion.choices[0].text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {"tools": [CLOCK, {**WEATHER, "function": {"name": "f", "parameters": {"type": "x"}}}]},
            "tools[1].function.parameters",
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "parameters": {"properties": {"a": {"type": "nothing"}}},
                        },
                    }
                ]
            },
            "tools[0].function.parameters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": DEEP}}]},
            "tools[0].function.parameters",
        ),
        ({"guided_json": DEEP}, "guided_json"),
        ({"tools": [CLOCK], "tool_choice": "any"}, "tool_choice"),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "no"}}},
            "tool_choice",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
            "response_format.json_schema.schema",
        ),
        ({"guided_regex": "(a", "stream": True}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs"),
    ],
)
async def test_what_cannot_be_kept_is_refused_by_name(
    weights: Path, fields: dict[str, Any], param: str
) -> None:
    async with running(weights, "hermes") as engine, client_of(engine) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(
                model="m", messages=ASK, max_tokens=4, extra_body=fields
            )
        assert refused.value.param == param


@pytest.mark.slow
async def test_calls_whose_arguments_are_no_json_are_taken(weights: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": '{"a": '}}
    turns: list[Any] = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "late"}]},
    ]
    for form in ("hermes", "json"):
        async with running(weights, form) as engine, client_of(engine) as client:
            reply = await client.chat.completions.create(model="m", messages=turns, max_tokens=2)
            assert reply.usage is not None and reply.usage.completion_tokens <= 2


@pytest.mark.slow
async def test_the_clients_own_helpers_for_forms_and_tools(weights: Path) -> None:
    """The parse helper of the official client, and LangChain's structured output and tools."""
    from langchain_openai import ChatOpenAI

    async with running(weights, "hermes") as engine, client_of(engine) as client:
        parsed = await client.chat.completions.parse(
            model="m", messages=ASK, response_format=Person, max_tokens=200, seed=1
        )
        assert isinstance(parsed.choices[0].message.parsed, Person)
        stream = client.chat.completions.stream(
            model="m", messages=ASK, response_format=Person, max_tokens=200, seed=1
        )
        async with stream as events:
            final = await events.get_final_completion()
        assert isinstance(final.choices[0].message.parsed, Person)
        chain = ChatOpenAI(
            model="m",
            base_url=str(client.base_url),
            api_key="none",  # type: ignore[arg-type]
            max_tokens=300,  # type: ignore[call-arg]
            seed=1,
            async_client=client.chat.completions,
            root_async_client=client,
        )
        for method in ("json_schema", "function_calling"):
            wanted = chain.with_structured_output(Person, method=method)
            assert isinstance(await wanted.ainvoke("Who?"), Person)
        bound = chain.bind_tools([WEATHER], tool_choice="any", parallel_tool_calls=False)
        (call,) = (await bound.ainvoke("Weather?")).tool_calls
        check_weather(json.dumps(call["args"]))


async def test_reasoning_comes_apart_from_the_answer() -> None:
    engine = EchoEngine(EchoOptions(reasoning="think"))
    said: list[Any] = [{"role": "user", "content": "<think>\nlet me see</think>\n\nRome"}]
    async with client_of(engine) as client:
        reply = await client.chat.completions.create(model="m", messages=said)
        message = reply.choices[0].message
        assert message.content == "Rome"
        assert message.model_extra == {"reasoning_content": "let me see", "reasoning": "let me see"}
        details = reply.usage.completion_tokens_details
        assert 0 < details.reasoning_tokens < reply.usage.completion_tokens
        thought = content = ""
        stream = await client.chat.completions.create(model="m", messages=said, stream=True)
        async for chunk in stream:
            delta = chunk.choices[0].delta
            content += delta.content or ""
            thought += (delta.model_extra or {}).get("reasoning_content") or ""
        assert (thought, content) == ("let me see", "Rome")


def without_end(engine: Engine) -> dict[str, int]:
    """The bias under which no reasoning ends."""
    return {str(engine.tokenize(THINK[1], add_special_tokens=False)[0]): -100}


@pytest.mark.slow
async def test_a_tag_that_the_prompt_opens_is_reasoning(weights: Path) -> None:
    async with running(weights, "opened") as engine, client_of(engine) as client:
        fields: Any = {"model": "m", "messages": ASK, "max_tokens": 6, "seed": 1}
        fields["logit_bias"] = without_end(engine)
        reply = await client.chat.completions.create(**fields)
        assert reply.choices[0].message.model_extra
        assert reply.choices[0].message.content == ""
        used = reply.usage
        assert used.completion_tokens_details.reasoning_tokens == used.completion_tokens
        quiet = await client.chat.completions.create(
            **fields, extra_body={"chat_template_kwargs": {"enable_thinking": False}}
        )
        assert not quiet.choices[0].message.model_extra
        assert quiet.choices[0].message.content
        assert quiet.usage.completion_tokens_details.reasoning_tokens == 0
        none = await client.chat.completions.create(**fields, reasoning_effort="none")
        assert none.choices[0].message.content == quiet.choices[0].message.content


@pytest.mark.slow
@pytest.mark.parametrize("form", ["think", "opened"])
async def test_a_form_holds_after_the_reasoning(weights: Path, form: str) -> None:
    async with running(weights, form) as engine, client_of(engine) as client:
        begin, end = (engine.tokenize(t, add_special_tokens=False)[0] for t in THINK)
        fields: Any = {"model": "m", "messages": ASK, "max_tokens": 30, "temperature": 0}
        # The model is made to open its reasoning where it may, and to close it at once.
        fields["logit_bias"] = {str(begin): 90, str(end): 100}
        reply = await client.chat.completions.create(
            **fields, extra_body={"guided_regex": "[0-9]{3}"}
        )
        assert reply.choices[0].finish_reason == "stop"
        content = reply.choices[0].message.content or ""
        assert len(content) == 3 and content.isdigit()
        reply = await client.chat.completions.create(
            **{**fields, "max_tokens": 200},
            tools=[WEATHER],
            tool_choice="required",
            parallel_tool_calls=False,
        )
        (call,) = reply.choices[0].message.tool_calls or ()
        check_weather(call.function.arguments)


@pytest.mark.slow
async def test_reasoning_without_end_is_cut_as_such(weights: Path) -> None:
    async with running(weights, "opened") as engine, client_of(engine) as client:
        fields: Any = {"model": "m", "messages": ASK, "max_tokens": 20, "seed": 1}
        fields["logit_bias"] = without_end(engine)
        reply = await client.chat.completions.create(
            **fields, extra_body={"guided_regex": "[0-9]{3}"}
        )
        assert reply.choices[0].finish_reason == "length"
        assert reply.choices[0].message.content == ""
        reply = await client.chat.completions.create(
            **fields, extra_body={"guided_regex": "[0-9]{3}", "reasoning_effort": "none"}
        )
        assert (reply.choices[0].message.content or "").isdigit()


@pytest.mark.slow
async def test_template_variables_without_effect_are_told(weights: Path) -> None:
    fields: Any = {"reasoning_effort": "high", "chat_template_kwargs": {"foo": 1}}
    async with running(weights, "json") as engine:
        async with client_of(engine) as client:
            reply = await client.chat.completions.with_raw_response.create(
                model="m", messages=ASK, max_tokens=2, extra_body={**fields, "unknown": 1}
            )
            told = reply.headers["x-fastchat-ignored"]
            assert told == "unknown, chat_template_kwargs.foo, reasoning_effort"
        async with client_of(engine, strict=True) as client:
            with pytest.raises(openai.BadRequestError):
                await client.chat.completions.create(
                    model="m", messages=ASK, max_tokens=2, extra_body=fields
                )


@pytest.mark.slow
async def test_the_echo_engine_tells_calls_apart_and_refuses_forms() -> None:
    text = 'On it. <tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    said: list[Any] = [{"role": "user", "content": text}]
    async with client_of(EchoEngine()) as client:
        content, calls, reason = await streamed(client, messages=said, tools=[CLOCK])
        assert (content, reason) == ("On it.", "tool_calls")
        assert [(c["name"], c["arguments"]) for c in calls] == [("clock", "{}")]
        for fields in ({"tools": [CLOCK], "tool_choice": "required"}, {"guided_regex": "a"}):
            with pytest.raises(openai.BadRequestError) as refused:
                await client.chat.completions.create(model="m", messages=said, extra_body=fields)
            assert refused.value.param in fields


@pytest.mark.slow
async def test_log_probabilities_of_calls_are_those_of_all_tokens() -> None:
    text = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'
    async with client_of(EchoEngine()) as client:
        stream = await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": text}],
            tools=[CLOCK],  # type: ignore[list-item]
            logprobs=True,
            stream=True,
        )
        tokens = [
            token.token
            async for chunk in stream
            if chunk.choices[0].logprobs
            for token in chunk.choices[0].logprobs.content or ()
        ]
    assert "".join(tokens) == text
