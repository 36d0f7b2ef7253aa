"""Remote models through a gateway, in front of a fake of each wire format."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fake_endpoint import FakeEndpoint
from fake_provider import ARGUMENTS, TEXT, FakeProvider
from live import LIMIT_S, serving, until

from fastchat.serve.openai_api_server import Gateway, GatewaySettings, create_app

KEY = "canary-4f1c9a"
TYPES = {
    "openai": "openai",
    "anthropic": "anthropic_message",
    "gemini": "gemini",
    "cohere": "cohere",
}
KEY_HEADERS = {
    "openai": ("authorization", f"Bearer {KEY}"),
    "anthropic": ("x-api-key", KEY),
    "gemini": ("x-goog-api-key", KEY),
    "cohere": ("authorization", f"Bearer {KEY}"),
}
TRANSLATED = ["anthropic", "gemini", "cohere"]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
HELLO: list[Any] = [{"role": "user", "content": "hi"}]


class Place:
    """A fake provider, and the official client of the gateway in front of it."""

    def __init__(self, provider: FakeProvider, client: openai.AsyncOpenAI, url: str) -> None:
        self.provider = provider
        self.client = client
        self.url = url

    async def chat(self, messages: list[Any] | None = None, **fields: Any) -> Any:
        return await self.client.chat.completions.create(
            model="ours", messages=messages or HELLO, **fields
        )

    async def stream(self, **fields: Any) -> list[Any]:
        chunks = await self.chat(stream=True, **fields)
        return [chunk async for chunk in chunks]


@contextlib.asynccontextmanager
async def place(
    wire: str, tmp_path: Path, *, settings: dict[str, Any] | None = None, **fields: Any
) -> AsyncIterator[Place]:
    provider = FakeProvider(wire)
    async with serving(provider) as provider_url:
        entry = {
            "model_name": "theirs",
            "api_type": TYPES.get(wire, wire),
            "api_base": provider_url + ("/v1" if wire == "openai" else ""),
            "api_key": KEY,
            "anony_only": False,
        }
        path = tmp_path / "endpoints.json"
        path.write_text(json.dumps({"ours": entry | {"max_retries": 0} | fields}))
        more: dict[str, Any] = {"controller_address": "", "host": "127.0.0.1"} | (settings or {})
        app = create_app(GatewaySettings(register_api_endpoint_file=path, **more))
        async with (
            serving(app) as url,
            openai.AsyncOpenAI(base_url=url + "/v1", api_key="x", max_retries=0) as client,
        ):
            yield Place(provider, client, url)


def text_of(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


@pytest.mark.slow
@pytest.mark.parametrize("wire", TYPES)
async def test_a_remote_model_stands_in_the_list_and_answers(wire: str, tmp_path: Path) -> None:
    async with place(wire, tmp_path) as here:
        assert [model.id async for model in here.client.models.list()] == ["ours"]
        answer = await here.chat(temperature=0.5, max_tokens=50, stop=["X"])
        assert answer.choices[0].message.content == TEXT
        assert answer.choices[0].finish_reason == "stop"
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (9, 4)
        (seen,) = here.provider.seen
        name, value = KEY_HEADERS[wire]
        assert seen.headers[name] == value
        sent = json.dumps(seen.value)
        assert "theirs" in sent + seen.path and "ours" not in sent + seen.path
        assert "0.5" in sent and "50" in sent and "X" in sent


@pytest.mark.slow
@pytest.mark.parametrize("wire", TYPES)
async def test_streams_come_as_openai_sends_them(wire: str, tmp_path: Path) -> None:
    async with place(wire, tmp_path) as here:
        chunks = await here.stream()
        assert text_of(chunks) == TEXT
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert all(c.usage is None for c in chunks)
        assert chunks[0].choices[0].delta.role == "assistant"
        chunks = await here.stream(stream_options={"include_usage": True})
        assert chunks[-1].choices == []
        assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (9, 4)


@pytest.mark.slow
@pytest.mark.parametrize("wire", TRANSLATED)
async def test_tools_are_called_and_answered(wire: str, tmp_path: Path) -> None:
    async with place(wire, tmp_path) as here:
        here.provider.tool = True
        answer = await here.chat(tools=[TOOL], tool_choice="required")
        (call,) = answer.choices[0].message.tool_calls
        assert answer.choices[0].finish_reason == "tool_calls"
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments) == ARGUMENTS
        chunks = await here.stream(tools=[TOOL])
        parts = [p for c in chunks if c.choices for p in c.choices[0].delta.tool_calls or ()]
        assert parts[0].function.name == "weather" and parts[0].id
        assert json.loads("".join(p.function.arguments or "" for p in parts)) == ARGUMENTS
        assert {p.index for p in parts} == {0}
        history = [*HELLO, answer.choices[0].message.model_dump(exclude_none=True)]
        history.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
        await here.chat(history, tools=[TOOL])
        sent = json.dumps(here.provider.seen[-1].value)
        assert "sunny" in sent and "Paris" in sent


@pytest.mark.slow
@pytest.mark.parametrize("wire", TRANSLATED)
async def test_thoughts_come_apart_from_the_answer(wire: str, tmp_path: Path) -> None:
    async with place(wire, tmp_path) as here:
        answer = await here.chat()
        assert answer.choices[0].message.reasoning_content == "Hm."
        chunks = await here.stream()
        deltas = [c.choices[0].delta for c in chunks if c.choices]
        assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "Hm."


@pytest.mark.slow
@pytest.mark.parametrize("wire", TRANSLATED)
async def test_system_texts_turns_and_pictures_arrive(wire: str, tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, picture]},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "user", "content": "four"},
    ]
    async with place(wire, tmp_path) as here:
        await here.chat(messages)
        sent = json.dumps(here.provider.seen[0].value)
        for word in ("Be brief.", "one", "aGVsbG8=", "image/png", "two", "three", "four"):
            assert word in sent
        if wire != "cohere":  # these two want speakers to take turns
            turns = here.provider.seen[0].value.get("messages") or here.provider.seen[0].value.get(
                "contents"
            )
            assert [turn["role"] for turn in turns][::2] == ["user", "user"]


REFUSED = [
    (400, 400, "refused the request"),
    (401, 502, "refused this server's key"),
    (403, 502, "refused this server's key"),
    (404, 502, "does not know the model"),
    (429, 429, "takes no more requests"),
    (500, 502, "failed"),
    (503, 502, "failed"),
    (504, 504, "in time"),
]


@pytest.mark.slow
@pytest.mark.parametrize("wire", TYPES)
async def test_failures_of_a_provider_are_told_as_ours(wire: str, tmp_path: Path) -> None:
    async with place(wire, tmp_path) as here:
        for status, expected, words in REFUSED:
            for stream in (False, True):
                body = {"error": {"message": f"no: {KEY} is wrong", "type": "x"}}
                here.provider.failures = [(status, {"retry-after": "7", "x-inside": "1"}, body)]
                with pytest.raises(openai.APIStatusError) as caught:
                    await here.chat(stream=stream)
                reply = caught.value.response
                assert reply.status_code == expected
                assert words in reply.text
                assert KEY not in reply.text and here.provider.wire not in reply.headers
                assert "x-inside" not in reply.headers
                if expected == 429:
                    assert reply.headers["retry-after"] == "7"
        assert (await here.chat()).choices[0].message.content == TEXT


@pytest.mark.slow
@pytest.mark.parametrize("wire", TRANSLATED)
@pytest.mark.parametrize("how", ["cut", "error_event"])
async def test_a_stream_that_breaks_ends_with_an_error_event(
    wire: str, how: str, tmp_path: Path
) -> None:
    async with place(wire, tmp_path) as here:
        setattr(here.provider, how, True)
        with pytest.raises(openai.APIError) as caught:
            await here.stream()
        assert "provider" in str(caught.value)


@pytest.mark.slow
async def test_a_provider_that_is_silent_is_given_up_after_its_time(tmp_path: Path) -> None:
    async with place("anthropic", tmp_path, timeout=0.3) as here:
        here.provider.hangs = True
        with pytest.raises(openai.InternalServerError) as caught:
            await here.chat()
        assert caught.value.status_code == 504


@pytest.mark.slow
async def test_a_failing_request_is_tried_again_as_often_as_told(tmp_path: Path) -> None:
    async with place("openai", tmp_path, max_retries=1) as here:
        here.provider.failures = [(500, {}, {})]
        assert (await here.chat()).choices[0].message.content == TEXT
        here.provider.failures = [(500, {}, {}), (500, {}, {})]
        with pytest.raises(openai.InternalServerError):
            await here.chat()
        here.provider.failures = [(429, {"retry-after": "60"}, {})]
        with pytest.raises(openai.RateLimitError):
            await here.chat()
        assert len(here.provider.seen) == 5


@pytest.mark.slow
async def test_no_more_requests_than_allowed_are_under_way(tmp_path: Path) -> None:
    async with place("openai", tmp_path, concurrency=1) as here:
        here.provider.hangs = True
        first = asyncio.create_task(here.chat())
        await until(lambda: here.provider.seen)
        with pytest.raises(openai.RateLimitError):
            await here.chat()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        here.provider.hangs = False

        async def free() -> bool:
            with contextlib.suppress(openai.RateLimitError):
                return bool(await here.chat())
            return False

        async with asyncio.timeout(LIMIT_S):
            while not await free():
                await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("api_type", ["openai_no_stream", "openai_o1"])
async def test_whole_answers_are_streamed_by_us(api_type: str, tmp_path: Path) -> None:
    async with place("openai", tmp_path, api_type=api_type) as here:
        chunks = await here.stream(
            max_tokens=5, temperature=0.2, stream_options={"include_usage": True}
        )
        assert text_of(chunks) == TEXT
        assert chunks[-1].usage.completion_tokens == 4
        sent = here.provider.seen[0].value
        assert sent["stream"] is False
        is_o1 = api_type == "openai_o1"
        assert sent["temperature"] == (1.0 if is_o1 else 0.2)
        assert ("max_tokens" in sent) != is_o1


@pytest.mark.slow
async def test_fields_without_effect_are_named(tmp_path: Path) -> None:
    async with place("anthropic", tmp_path) as here:
        raw = await here.client.chat.completions.with_raw_response.create(
            model="ours", messages=HELLO, seed=3, frequency_penalty=0.5
        )
        assert raw.headers["x-fastchat-ignored"] == "frequency_penalty, seed"
        refused: list[dict[str, Any]] = [{"logprobs": True}, {"n": 2}, {"logit_bias": {"5": 1}}]
        for fields in refused:
            with pytest.raises(openai.BadRequestError) as caught:
                await here.chat(**fields)
            assert caught.value.param == next(iter(fields))
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
        with pytest.raises(openai.BadRequestError):
            await here.chat(response_format=form)


MALFORMED: list[dict[str, Any]] = [
    {"messages": []},
    {"messages": "hi"},
    {"messages": [3]},
    {"messages": [{"role": "nobody", "content": "x"}]},
    {"messages": [{"role": "user", "content": 5}]},
    {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
    {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
            }
        ]
    },
    {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,!"}}],
            }
        ]
    },
    {"messages": [{"role": "tool", "content": "x"}]},
    {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
    {"messages": [{"role": "assistant", "tool_calls": 5}]},
    {"tools": 5},
    {"tools": [{"type": "function"}]},
    {"tool_choice": "whatever"},
    {"stop": 5},
    {"response_format": "json"},
]


@pytest.mark.slow
@pytest.mark.parametrize("wire", TRANSLATED)
async def test_malformed_requests_are_refused_before_they_cost(wire: str, tmp_path: Path) -> None:
    async with place(wire, tmp_path) as here:
        http = here.client._client
        for fields in MALFORMED:
            body = {"model": "ours", "messages": HELLO} | fields
            reply = await http.post(here.url + "/v1/chat/completions", json=body)
            assert reply.status_code == 400, fields
            assert reply.json()["error"]["type"] == "invalid_request_error"
        assert here.provider.seen == []
        body = {"model": "ours", "messages": HELLO, "a\r\nx: y": 1, "é": 1, "fine": 1}
        reply = await http.post(here.url + "/v1/chat/completions", json=body)
        assert (reply.status_code, reply.headers["x-fastchat-ignored"]) == (200, "fine")


@pytest.mark.slow
async def test_a_reply_that_cannot_be_read_is_the_providers_failure(tmp_path: Path) -> None:
    strange = [[], {"content": 5}, {"content": [{"type": "tool_use"}]}, {"content": ["x"]}]
    async with place("anthropic", tmp_path) as here:
        for value in strange:
            here.provider.failures = [(200, {}, value)]
            with pytest.raises(openai.InternalServerError) as caught:
                await here.chat()
            assert caught.value.status_code == 502


@pytest.mark.slow
async def test_embeddings_pass_to_openai_and_nowhere_else(tmp_path: Path) -> None:
    async with place("openai", tmp_path) as here:
        with contextlib.suppress(openai.APIError, TypeError, ValueError):
            await here.client.embeddings.create(model="ours", input="x")
        assert here.provider.seen[0].path == "/v1/embeddings"
    async with place("gemini", tmp_path) as here:
        with pytest.raises(openai.BadRequestError):
            await here.client.embeddings.create(model="ours", input="x")


@pytest.mark.slow
async def test_published_fields_reach_the_provider(tmp_path: Path) -> None:
    config = {"temperature": 0.7, "extra_body": {"router": "x"}}
    async with place("openai", tmp_path, recommended_config=config) as here:
        await here.chat()
        assert here.provider.seen[0].value["router"] == "x"
    async with place(
        "openai", tmp_path, api_type="yandexgpt", folder_id="f1", fixed_temperature=0.3
    ) as here:
        await here.chat(top_p=0.5, temperature=0.9)
        seen = here.provider.seen[0]
        assert seen.headers["authorization"] == f"Api-Key {KEY}"
        assert seen.value["model"] == "gpt://f1/theirs"
        assert seen.value["temperature"] == 0.3 and "top_p" not in seen.value
    async with place("cohere", tmp_path, client_name="arena") as here:
        await here.chat()
        assert here.provider.seen[0].headers["x-client-name"] == "arena"
    async with place("openai", tmp_path, model_name="azure-dep") as here:
        await here.chat()
        seen = here.provider.seen[0]
        assert seen.path.endswith("/openai/deployments/dep/chat/completions")
        assert seen.query.startswith("api-version=") and seen.headers["api-key"] == KEY


@pytest.mark.slow
async def test_the_familys_system_text_comes_first_where_asked_for(tmp_path: Path) -> None:
    async with place(
        "openai", tmp_path, model_name="vicuna-7b-v1.5", custom_system_prompt=True
    ) as here:
        await here.chat()
        first = here.provider.seen[0].value["messages"][0]
        assert first["role"] == "system" and first["content"].startswith("A chat between")
        await here.chat([{"role": "system", "content": "Mine."}, *HELLO])
        assert here.provider.seen[1].value["messages"][0]["content"] == "Mine."


@pytest.mark.slow
async def test_pages_learn_how_a_model_is_shown(tmp_path: Path) -> None:
    config = {"temperature": 0.7}
    fields: dict[str, Any] = {"anony_only": True, "vision-arena": True}
    fields["recommended_config"] = config
    async with place("openai", tmp_path, context_length=4096, **fields) as here:
        (card,) = [model async for model in here.client.models.list()]
        assert card.model_extra is not None
        assert card.model_extra["context_length"] == 4096
        assert card.model_extra["fastchat"] == {
            "anony_only": True,
            "text_arena": True,
            "vision_arena": True,
            "recommended_config": config,
        }


async def test_a_local_model_answers_where_the_provider_of_its_name_is_full(
    tmp_path: Path,
) -> None:
    async with FakeEndpoint("ours") as local:
        settings = {"endpoint": (local.url,)}
        async with place("openai", tmp_path, settings=settings) as here:
            await until(lambda: local.n_connections)
            texts = set()
            for _ in range(4):
                here.provider.failures = [(429, {}, {})]
                texts.add((await here.chat()).choices[0].message.content)
            assert texts == {"ok"}


@pytest.mark.slow
async def test_use_of_remote_models_is_counted(tmp_path: Path) -> None:
    from fastchat.store.database import Database
    from fastchat.store.keys import KeyStore
    from fastchat.store.usage import UsageStore

    database = Database(str(tmp_path / "keys.db"))
    _, text = KeyStore(database).create("x", now=1.0)
    settings = {"database_url": str(tmp_path / "keys.db")}
    for wire in TYPES:
        async with place(wire, tmp_path, settings=settings) as here:
            here.client.api_key = text
            await here.chat()
            assert all(c.usage is None for c in await here.stream())
    ((_, used),) = UsageStore(database).since(0)
    assert (used.requests, used.prompt_tokens, used.completion_tokens) == (8, 72, 32)
    assert used.estimated_requests == 0
    database.close()


@pytest.mark.slow
@pytest.mark.parametrize("wire", TYPES)
async def test_the_key_is_nowhere_but_with_the_provider(
    wire: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with place(wire, tmp_path) as here:
            await here.chat()
            here.provider.failures = [(500, {}, {"error": KEY}), (400, {}, {"error": KEY})]
            told = ""
            for _ in range(2):
                with pytest.raises(openai.APIStatusError) as caught:
                    await here.chat()
                told += caught.value.response.text
            http = here.client._client
            told += (await http.get(here.url + "/metrics")).text
            told += (await http.get(here.url + "/v1/models")).text
            told += (await http.get(here.url + "/health")).text
    assert KEY not in told
    assert KEY not in caplog.text
    gateway = Gateway(
        GatewaySettings(
            register_api_endpoint_file=tmp_path / "endpoints.json", controller_address=""
        )
    )
    assert KEY not in repr([remote.entry for remote in gateway.roster.remotes.values()])
