"""Every field of every body, over a real gateway, worker and model: it changes the reply, is
refused by its name, is named in a header, or is one of those that docs/api.md lists."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from in_process import serving, until
from tiny_llama import TEMPLATE, write_llama

from fastchat.engine.choose import EngineSettings
from fastchat.model.load import ModelSettings
from fastchat.protocol.anthropic_api import CountTokensRequest, MessagesRequest
from fastchat.protocol.openai_api import (
    Body,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from fastchat.protocol.openai_constraints import GUIDED
from fastchat.protocol.rank_api import RerankRequest, ScoreRequest
from fastchat.protocol.responses_api import ResponsesRequest
from fastchat.serve.model_worker import open_model
from fastchat.serve.openai_api_server import Gateway, GatewaySettings
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings

pytestmark = pytest.mark.slow

END = 1
"""The model's end token."""
SAID = [{"role": "user", "content": "hello there"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
THEIR_TOOL = {"name": "f", "input_schema": SCHEMA}
FLAT_TOOL = {"type": "function", "name": "f", "parameters": SCHEMA}
ENDS_AT_ONCE = {"logit_bias": {str(END): 100}}


@dataclass(frozen=True, slots=True)
class Try:
    """Two requests that differ in a field."""

    value: Any
    beside: dict[str, Any] = field(default_factory=dict)
    """What both of them hold beside the base."""


GENERATION: dict[str, Try] = {
    "temperature": Try(0.05),
    "top_p": Try(0.01),
    "top_k": Try(1),
    "min_p": Try(0.9),
    "repetition_penalty": Try(5.0, {"temperature": 0}),
    "presence_penalty": Try(2.0, {"temperature": 0}),
    "frequency_penalty": Try(2.0, {"temperature": 0}),
    "logit_bias": Try({"70": 100}),
    "seed": Try(8),
    "stop": Try(["e", "a", "i", "o", "u", " ", "1", "x"], {"logit_bias": {"70": 60, "71": 60}}),
    "stop_token_ids": Try([70], {"logit_bias": {"70": 100}}),
    "ignore_eos": Try(True, ENDS_AT_ONCE),
    "n": Try(2),
    "stream": Try(True),
    "stream_options": Try({"include_usage": True}, {"stream": True}),
    "response_format": Try({"type": "json_object"}),
    "structured_outputs": Try({"choice": ["yes", "no"]}),
    "guided_json": Try(SCHEMA),
    "guided_regex": Try("[ab]{3}"),
    "guided_choice": Try(["yes", "no"]),
    "guided_grammar": Try('start: "yes"'),
    "max_tokens": Try(3),
}
IGNORED = "x-fastchat-ignored"
PASSING = frozenset(
    {
        "id",
        "item_id",
        "call_id",
        "created",
        "created_at",
        "completed_at",
        "prompt_tokens_details",
        "input_tokens_details",
        "cache_read_input_tokens",
    }
)
FORMS = frozenset({"constraint", "raw_prompt"})
"""What a body keeps of others of its fields."""


class Route(NamedTuple):
    path: str
    kind: type[Body]
    base: dict[str, Any]
    tries: dict[str, Try]
    more: frozenset[str] = frozenset()
    """Fields beside those of the kind that must be tried."""


TEXT = frozenset({"response_format", "structured_outputs", *GUIDED})
SAMPLED = {"temperature": 1.0, "seed": 7, "max_tokens": 24}
ROUTES = (
    Route(
        "/v1/chat/completions",
        ChatRequest,
        {"messages": SAID, **SAMPLED},
        GENERATION
        | {
            "messages": Try([{"role": "user", "content": "another"}]),
            "max_completion_tokens": Try(3),
            "logprobs": Try(True),
            "top_logprobs": Try(2, {"logprobs": True}),
            "modalities": Try(["audio"]),
            "tools": Try([TOOL]),
            "tool_choice": Try("required", {"tools": [TOOL]}),
            "parallel_tool_calls": Try(
                False,
                {"tools": [TOOL], "tool_choice": "required", "max_tokens": 200, "temperature": 0},
            ),
            "reasoning_effort": Try("low"),
            "chat_template_kwargs": Try({"flavour": 1}),
            "add_generation_prompt": Try(False, {"messages": [*SAID, *SAID]}),
            "continue_final_message": Try(
                True, {"messages": [*SAID, {"role": "assistant", "content": "I am"}]}
            ),
        },
        TEXT,
    ),
    Route(
        "/v1/completions",
        CompletionRequest,
        {"prompt": "hello", **SAMPLED},
        GENERATION
        | {
            "prompt": Try("another"),
            "logprobs": Try(2),
            "echo": Try(True),
            "best_of": Try(5),
        },
        TEXT,
    ),
    Route(
        "/v1/embeddings",
        EmbeddingRequest,
        {"input": "hello"},
        {
            "input": Try("another"),
            "encoding_format": Try("base64"),
            "dimensions": Try(4),
        },
    ),
    Route(
        "/tokenize",
        TokenizeRequest,
        {"prompt": "hello"},
        {
            "prompt": Try("another"),
            "messages": Try(SAID, {"prompt": None, "messages": [*SAID, *SAID]}),
            "add_special_tokens": Try(False),
            "tools": Try([TOOL], {"prompt": None, "messages": SAID}),
            "chat_template_kwargs": Try({"flavour": 1}, {"prompt": None, "messages": SAID}),
            "add_generation_prompt": Try(False, {"prompt": None, "messages": [*SAID, *SAID]}),
            "continue_final_message": Try(
                True,
                {
                    "prompt": None,
                    "messages": [*SAID, {"role": "assistant", "content": "I am"}],
                },
            ),
        },
    ),
    Route("/detokenize", DetokenizeRequest, {"tokens": [70, 71]}, {"tokens": Try([72])}),
    Route(
        "/v1/rerank",
        RerankRequest,
        {"query": "hello", "documents": ["a", "hello b"]},
        {
            "query": Try("another"),
            "documents": Try(["a", "c"]),
            "top_n": Try(1),
            "return_documents": Try(False),
        },
    ),
    Route(
        "/v1/score",
        ScoreRequest,
        {"text_1": "hello", "text_2": ["a", "hello b"]},
        {"text_1": Try("another"), "text_2": Try(["c"])},
    ),
    Route(
        "/v1/responses",
        ResponsesRequest,
        {"input": "hello", "temperature": 0, "max_output_tokens": 24, "store": False},
        {
            "input": Try("another"),
            "instructions": Try("Be brief."),
            "previous_response_id": Try("resp_none"),
            "store": Try(True),
            "background": Try(True, {"store": True}),
            "stream": Try(True),
            "max_output_tokens": Try(3),
            "temperature": Try(2.0),
            "top_p": Try(0.01, {"temperature": 1.9}),
            "top_logprobs": Try(2),
            "text": Try({"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}),
            "reasoning": Try({"effort": "low"}),
            "tools": Try([FLAT_TOOL]),
            "tool_choice": Try("required", {"tools": [FLAT_TOOL]}),
            "parallel_tool_calls": Try(
                False, {"tools": [FLAT_TOOL], "tool_choice": "required", "max_output_tokens": 200}
            ),
            "include": Try(["message.output_text.logprobs"]),
            "metadata": Try({"a": "b"}),
            "truncation": Try("auto"),
        },
    ),
    Route(
        "/v1/messages",
        MessagesRequest,
        {"messages": SAID, "max_tokens": 24, "temperature": 0},
        {
            "messages": Try([{"role": "user", "content": "another"}]),
            "system": Try("Be brief."),
            "tools": Try([THEIR_TOOL]),
            "tool_choice": Try({"type": "any"}, {"tools": [THEIR_TOOL]}),
            "thinking": Try({"type": "disabled"}),
            "output_config": Try({"format": {"type": "json_schema", "schema": SCHEMA}}),
            "max_tokens": Try(3),
            "stop_sequences": Try([chr(i) for i in range(33, 97)]),
            "stream": Try(True),
            "temperature": Try(1.0),
            "top_p": Try(0.01, {"temperature": 1.0}),
            "top_k": Try(1, {"temperature": 1.0}),
        },
    ),
    Route(
        "/v1/messages/count_tokens",
        CountTokensRequest,
        {"messages": SAID},
        {
            "messages": Try([{"role": "user", "content": "another"}]),
            "system": Try("Be brief."),
            "tools": Try([THEIR_TOOL]),
            "tool_choice": Try({"type": "none"}, {"tools": [THEIR_TOOL]}),
            "thinking": Try({"type": "disabled"}),
            "output_config": Try({"format": {"type": "json_schema", "schema": SCHEMA}}),
        },
    ),
)


UNCOUNTED = {("/v1/messages/count_tokens", "output_config")}
"""Concerns the answer, which is not counted."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    template = TEMPLATE + "{% if add_generation_prompt %}>{% endif %}"
    return write_llama(tmp_path_factory.mktemp("llama"), context=2048, template=template)


class Client:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def ask(self, path: str, body: dict[str, Any]) -> tuple[int, list[Any], str]:
        """Status, the reply without what no two replies share, and the header of the ignored."""
        sent = {"model": "m"} | {n: v for n, v in body.items() if v is not None}
        async with self._session.post(self._url + path, json=sent) as reply:
            return reply.status, _lasting(await reply.text()), reply.headers.get(IGNORED, "")


def _lasting(text: str) -> list[Any]:
    """A reply, or the events of one, without what no two replies share."""
    lines = text.split("\n")
    values = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
    return [_without(json.loads(value)) for value in values or [text]]


def _without(value: Any) -> Any:
    if isinstance(value, list):
        return [_without(item) for item in value]
    if isinstance(value, dict):
        return {name: _without(item) for name, item in value.items() if name not in PASSING}
    return value


@pytest.fixture
async def client(llama: Path) -> AsyncIterator[Client]:
    model = ModelSettings(model_path=str(llama), device="cpu", num_threads=1)
    engine = await open_model(model, EngineSettings(max_running=4))
    worker = Worker({"m": engine}, WorkerSettings(seed=7))
    async with serving(worker.app) as worker_url:
        gateway = Gateway(GatewaySettings(endpoint=(worker_url,)))
        async with serving(gateway) as url, aiohttp.ClientSession() as session:
            await until(lambda: gateway.roster.router.models())
            yield Client(url, session)
    await engine.stop(drain_s=0.0)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_every_field_is_followed_refused_or_named(route: Route, client: Client) -> None:
    wanted = (route.kind.model_fields.keys() | route.more) - FORMS - route.kind.quiet - {"model"}
    assert wanted - route.tries.keys() == set(), "a field is not tried"
    silent: list[str] = []
    for name, one in route.tries.items():
        base = route.base | one.beside
        status, without, _ = await client.ask(route.path, base)
        assert status == 200, (name, without)
        again = (await client.ask(route.path, base))[1]
        told, reply, ignored = await client.ask(route.path, base | {name: one.value})
        if told != 200:
            error = reply[0]["error"]
            assert told in (400, 404)
            assert name in (error.get("param") or error["message"]), (name, error)
        elif (
            name not in ignored
            and (route.path, name) not in UNCOUNTED
            and (reply == without or without != again)
        ):
            silent.append(name)
    assert silent == []


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_what_is_listed_as_without_effect_has_none(route: Route, client: Client) -> None:
    values = {"stream_options": {"include_obfuscation": False}, "metadata": {"user_id": "u"}}
    values |= {"max_tool_calls": 3}
    status, without, _ = await client.ask(route.path, route.base)
    assert status == 200
    for name in route.kind.quiet:
        status, reply, ignored = await client.ask(
            route.path, route.base | {name: values.get(name, "x")}
        )
        assert (status, ignored) == (200, ""), name
        # Some replies repeat what was sent.
        assert [_rest(one, name) for one in reply] == [_rest(one, name) for one in without], name


def _rest(value: dict[str, Any], name: str) -> dict[str, Any]:
    return {other: item for other, item in value.items() if other != name}
