"""The worker through the official client and through strict readers of its events."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from in_process import serving, until
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from fastchat.engine.base import Chunk, GenerationRequest
from fastchat.engine.echo import EchoEngine, EchoOptions
from fastchat.protocol.openai_api import ChatRequest, parse
from fastchat.serve.generation import chat_request
from fastchat.serve.published_worker import published_routes
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings

HELLO: list[Any] = [{"role": "user", "content": "hello world"}]
PROMPT_TOKENS = len("user: hello world\nassistant: ")


def make_worker(options: EchoOptions | None = None, **limits: Any) -> Worker:
    engine = EchoEngine(options)
    engines = {"echo": engine, "alias": engine}
    return Worker(engines, WorkerSettings(**limits), extra_routes=published_routes)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with serving(make_worker().app) as address:
        yield address


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def events(url: str, path: str, body: dict[str, Any]) -> list[Any]:
    """The data of a stream's events, checked to be nothing but events that end in [DONE]."""
    async with aiohttp.ClientSession() as session, session.post(url + path, json=body) as reply:
        assert reply.status == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        text = await reply.text()
    assert text.endswith("\n\n")
    lines = text.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_chat_answers_with_exact_usage(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="echo", messages=HELLO)
    assert reply.choices[0].message.content == "hello world"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == PROMPT_TOKENS
    assert reply.usage.completion_tokens == len("hello world")
    assert reply.usage.total_tokens == PROMPT_TOKENS + len("hello world")
    assert reply.id.startswith("chatcmpl-")
    assert reply.model == "echo"


async def test_several_choices_count_the_prompt_once(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="echo", messages=HELLO, n=3)
    texts = [choice.message.content for choice in reply.choices]
    assert texts == ["hello world", "hello world (1)", "hello world (2)"]
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == PROMPT_TOKENS
    assert reply.usage.completion_tokens == sum(len(t or "") for t in texts)


@pytest.mark.slow
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_both_names_of_the_token_limit_hold(client: openai.AsyncOpenAI, field: str) -> None:
    limit: Any = {field: 4}
    reply = await client.chat.completions.create(model="echo", messages=HELLO, **limit)
    assert reply.choices[0].message.content == "hell"
    assert reply.choices[0].finish_reason == "length"


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "text"), [("wo", "hello "), (["xx", "l"], "he")])
async def test_stop_strings_end_the_text(client: openai.AsyncOpenAI, stop: Any, text: str) -> None:
    reply = await client.chat.completions.create(model="echo", messages=HELLO, stop=stop)
    assert reply.choices[0].message.content == text
    assert reply.choices[0].finish_reason == "stop"


async def test_logit_bias_and_seed_reach_the_engine(client: openai.AsyncOpenAI) -> None:
    bias = {str(ord("l")): -100}
    reply = await client.chat.completions.create(
        model="echo", messages=HELLO, logit_bias=bias, seed=3
    )
    assert reply.choices[0].message.content == "heo word"


async def test_chat_logprobs_have_the_alternatives_asked_for(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model="echo", messages=HELLO, logprobs=True, top_logprobs=3, max_tokens=2
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert [token.token for token in logprobs.content] == ["h", "e"]
    assert [len(token.top_logprobs) for token in logprobs.content] == [3, 3]
    assert logprobs.content[0].bytes == [ord("h")]


async def test_roles_null_content_and_parts_are_understood(client: openai.AsyncOpenAI) -> None:
    messages: Any = [
        {"role": "developer", "content": "be brief"},
        {"role": "system", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "4", "tool_call_id": "x"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    reply = await client.chat.completions.create(model="echo", messages=messages)
    assert reply.choices[0].message.content == "a\nb"


async def test_stream_pieces_join_to_the_answer(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="echo", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    deltas = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(deltas) == "hello world"
    assert chunks[-1].usage is not None and not chunks[-1].choices
    assert chunks[-1].usage.prompt_tokens == PROMPT_TOKENS
    assert chunks[-1].usage.completion_tokens == len("hello world")
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)


async def test_every_event_is_a_whole_chunk_and_choices_interleave(url: str) -> None:
    body = {"model": "echo", "messages": HELLO, "stream": True, "n": 2}
    found = await events(url, "/v1/chat/completions", body)
    for event in found:
        ChatCompletionChunk.model_validate(event, strict=True)
        assert {"id", "object", "created", "model", "choices"} <= event.keys()
        assert event["object"] == "chat.completion.chunk"
        assert "usage" not in event
    assert len({(e["id"], e["created"], e["model"]) for e in found}) == 1
    order = [e["choices"][0]["index"] for e in found]
    assert order != sorted(order)
    for index, text in enumerate(["hello world", "hello world (1)"]):
        mine = [e["choices"][0] for e in found if e["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(c["delta"].get("content", "") for c in mine) == text
        reasons = [c["finish_reason"] for c in mine]
        assert reasons == [None] * (len(mine) - 1) + ["stop"]
        assert mine[-1]["delta"] == {}


@pytest.mark.slow
@pytest.mark.parametrize(("interval", "pieces"), [(1, 11), (2, 6), (100, 2)])
async def test_a_stream_sends_the_first_token_at_once_and_then_by_interval(
    interval: int, pieces: int
) -> None:
    body = {"model": "echo", "messages": HELLO, "stream": True}
    async with serving(make_worker(stream_interval=interval).app) as url:
        found = await events(url, "/v1/chat/completions", body)
    texts = [t for e in found if (t := e["choices"][0]["delta"].get("content"))]
    assert texts[0] == "h"
    assert len(texts) == pieces
    assert "".join(texts) == "hello world"


async def test_streamed_logprobs_cover_every_token_once(url: str) -> None:
    body = {"model": "echo", "messages": HELLO, "stream": True, "logprobs": True}
    found = await events(url, "/v1/chat/completions", body)
    parts = [e["choices"][0]["logprobs"] for e in found]
    tokens = [t["token"] for part in parts if part for t in part["content"]]
    assert "".join(tokens) == "hello world"


async def test_completion_with_echo_and_logprobs(client: openai.AsyncOpenAI) -> None:
    reply = await client.completions.create(
        model="echo", prompt="abc", echo=True, logprobs=2, max_tokens=2
    )
    choice = reply.choices[0]
    assert choice.text == "abcab"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == list("abcab")
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4]
    assert choice.logprobs.token_logprobs is not None
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.top_logprobs is not None
    assert len(choice.logprobs.top_logprobs[-1]) == 2
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 2)


async def test_streamed_completion_has_running_offsets(url: str) -> None:
    body = {"model": "echo", "prompt": "abcdef", "stream": True, "logprobs": 1, "echo": True}
    found = await events(url, "/v1/completions", body)
    for event in found:
        assert event["object"] == "text_completion"
        assert {"id", "created", "model", "system_fingerprint"} <= event.keys()
    choices = [event["choices"][0] for event in found]
    assert "".join(c["text"] for c in choices) == "abcdefabcdef"
    offsets = [o for c in choices if c["logprobs"] for o in c["logprobs"]["text_offset"]]
    assert offsets == list(range(12))


@pytest.mark.parametrize("stream", [False, True])
async def test_index_runs_over_prompts_and_choices(url: str, stream: bool) -> None:
    body = {"model": "echo", "prompt": ["ab", "cd"], "n": 2, "stream": stream}
    texts = {0: "", 1: "", 2: "", 3: ""}
    if stream:
        for event in await events(url, "/v1/completions", body):
            texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    else:
        async with aiohttp.ClientSession() as http:
            reply = await (await http.post(f"{url}/v1/completions", json=body)).json()
        texts = {choice["index"]: choice["text"] for choice in reply["choices"]}
        assert reply["usage"]["prompt_tokens"] == 4
        assert reply["usage"]["completion_tokens"] == 2 + 6 + 2 + 6
    assert texts == {0: "ab", 1: "ab (1)", 2: "cd", 3: "cd (1)"}


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [[97, 98], [[97, 98]], ["ab"], "ab"])
async def test_prompts_may_be_text_or_token_ids(client: openai.AsyncOpenAI, prompt: Any) -> None:
    reply = await client.completions.create(model="echo", prompt=prompt)
    assert [choice.text for choice in reply.choices] == ["ab"]


async def test_best_of_returns_the_most_likely(client: openai.AsyncOpenAI) -> None:
    reply = await client.completions.create(model="echo", prompt=["ab", "cd"], best_of=3, n=1)
    assert [choice.text for choice in reply.choices] == ["ab (2)", "cd (2)"]
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert [choice.logprobs for choice in reply.choices] == [None, None]
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 2 * (2 + 6 + 6)


@pytest.mark.slow
@pytest.mark.parametrize(("echo", "text"), [(True, "abc"), (False, "")])
async def test_zero_tokens_score_the_prompt_alone(
    client: openai.AsyncOpenAI, echo: bool, text: str
) -> None:
    reply = await client.completions.create(
        model="echo", prompt="abc", echo=echo, logprobs=0, max_tokens=0
    )
    choice = reply.choices[0]
    assert (choice.text, choice.finish_reason) == (text, "length")
    assert choice.logprobs is not None and choice.logprobs.tokens == list(text)
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 0)


@pytest.mark.slow
async def test_embeddings_as_numbers_and_as_bytes(client: openai.AsyncOpenAI, url: str) -> None:
    reply = await client.embeddings.create(model="echo", input=["abc", "ab"])
    assert [item.index for item in reply.data] == [0, 1]
    assert sum(x * x for x in reply.data[0].embedding) == pytest.approx(1.0)
    assert reply.usage.prompt_tokens == 5
    body = {"model": "echo", "input": "abc", "encoding_format": "float"}
    async with aiohttp.ClientSession() as http:
        plain = await (await http.post(f"{url}/v1/embeddings", json=body)).json()
        body["encoding_format"] = "base64"
        packed = await (await http.post(f"{url}/v1/embeddings", json=body)).json()
    CreateEmbeddingResponse.model_validate(plain)
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == pytest.approx(
        plain["data"][0]["embedding"]
    )


async def test_embeddings_cut_to_dimensions_have_length_one(client: openai.AsyncOpenAI) -> None:
    reply = await client.embeddings.create(model="echo", input="abcabc", dimensions=3)
    vector = reply.data[0].embedding
    assert len(vector) == 3
    assert sum(x * x for x in vector) == pytest.approx(1.0)


@pytest.mark.slow
async def test_long_texts_are_cut_where_that_is_asked_for() -> None:
    worker = make_worker(EchoOptions(context=8), embed_in_truncate=True)
    async with serving(worker.app) as url, aiohttp.ClientSession() as http:
        body = {"model": "echo", "input": ["aaaaaaaabbbbbbbb", "a" * 20, "a"]}
        reply = await (await http.post(f"{url}/v1/embeddings", json=body)).json()
    vectors = [item["embedding"] for item in reply["data"]]
    assert vectors[0] == vectors[1] == vectors[2]
    assert reply["usage"]["prompt_tokens"] == 8 + 8 + 1


@pytest.mark.parametrize(("given", "used"), [(None, 7), (0, 0), (3, 3)])
def test_the_servers_seed_stands_in_where_a_request_has_none(given: Any, used: int) -> None:
    body = parse(ChatRequest, {"model": "m", "messages": HELLO, "seed": given})
    wanted = chat_request(body, EchoEngine().info, request_id="r", seed=7)
    assert wanted.sampling.seed == used


async def test_models_are_listed_with_their_context(client: openai.AsyncOpenAI) -> None:
    models = [model async for model in client.models.list()]
    assert [model.id for model in models] == ["echo", "alias"]
    one: Any = await client.models.retrieve("alias")
    assert one.context_length == 4096
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("a/b")


async def test_an_answer_names_the_model_as_it_was_asked_for(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="alias", messages=HELLO)
    assert reply.model == "alias"
    ChatCompletion.model_validate(reply.model_dump())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_fields", "error", "param"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, openai.BadRequestError, None),
        ({"n": 1000}, openai.BadRequestError, "n"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools[0].function"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_client_raises_its_own_errors(
    client: openai.AsyncOpenAI,
    request_fields: dict[str, Any],
    error: type[openai.APIStatusError],
    param: str | None,
    stream: bool,
) -> None:
    fields: Any = {"model": "echo", "messages": HELLO, "stream": stream} | request_fields
    with pytest.raises(error) as raised:
        await client.chat.completions.create(**fields)
    assert raised.value.param == param
    assert raised.value.code is not None


@pytest.mark.slow
async def test_a_failure_after_the_start_is_an_error_event_and_the_end() -> None:
    worker = make_worker(EchoOptions(fail_on="bad", fail_after=3))
    body = {"model": "echo", "messages": [{"role": "user", "content": "bad luck"}]}
    async with serving(worker.app) as url, aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/chat/completions", json=body | {"stream": True}) as reply:
            text = await reply.text()
        whole = await http.post(f"{url}/v1/chat/completions", json=body)
        assert whole.status == 500
        assert (await whole.json())["code"] == 50001
    assert reply.status == 200
    assert text.count("event: error\n") == 1
    assert text.endswith("data: [DONE]\n\n")
    error = json.loads(text.split("event: error\ndata: ")[1].split("\n")[0])
    assert error["code"] == 50001
    assert error["error"]["type"] == "server_error"
    assert worker.admission.queue_length == 0


@pytest.mark.slow
async def test_the_client_sees_the_failure_of_a_stream() -> None:
    worker = make_worker(EchoOptions(fail_on="bad", fail_after=3))
    async with (
        serving(worker.app) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client,
    ):
        stream = await client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "bad luck"}], stream=True
        )
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass


async def test_tokenize_and_detokenize(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        reply = await http.post(f"{url}/tokenize", json={"model": "echo", "prompt": "ab"})
        found = await reply.json()
        assert found == {"count": 2, "max_model_len": 4096, "tokens": [97, 98]}
        body = {"model": "echo", "messages": HELLO}
        assert (await (await http.post(f"{url}/tokenize", json=body)).json())["count"] == (
            PROMPT_TOKENS
        )
        reply = await http.post(f"{url}/detokenize", json={"model": "echo", "tokens": [97, 98]})
        assert await reply.json() == {"prompt": "ab"}


@pytest.mark.slow
async def test_fields_without_meaning_are_named_or_refused(url: str) -> None:
    body = {"model": "echo", "messages": HELLO, "user": "me", "x_y": 1, "bad name\r\n": 2}
    async with aiohttp.ClientSession() as http:
        reply = await http.post(f"{url}/v1/chat/completions", json=body)
        assert reply.status == 200
        assert reply.headers["x-fastchat-ignored"] == "x_y"
        async with serving(make_worker(strict=True).app) as strict_url:
            reply = await http.post(f"{strict_url}/v1/chat/completions", json=body)
            assert reply.status == 400
            assert (await reply.json())["error"]["param"] == "x_y"


class HeldEngine(EchoEngine):
    """Says one character, and the rest when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = asyncio.Event()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        async for chunk in super().generate(request):
            yield chunk
            await self.let_go.wait()


@pytest.mark.slow
async def test_health_and_metrics_tell_the_load() -> None:
    engine = HeldEngine()
    worker = Worker({"echo": engine}, WorkerSettings(), extra_routes=published_routes)
    body = {"model": "echo", "messages": HELLO, "stream": True}
    async with serving(worker.app) as url, aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
            await reply.content.readline()
            health = await (await http.get(f"{url}/health")).json()
            assert health["status"] == "ok"
            assert health["queue_length"] == 1
            assert "fastchat_running 1.0" in await (await http.get(f"{url}/metrics")).text()
            engine.let_go.set()
            await reply.read()
        text = await (await http.get(f"{url}/metrics")).text()
    assert 'route="/v1/chat/completions",status="200"} 1.0' in text
    assert f'fastchat_generated_tokens_total{{model="echo"}} {len("hello world")}.0' in text


@pytest.mark.slow
async def test_a_full_queue_is_answered_with_429_and_when_to_come_back() -> None:
    engine = HeldEngine()
    settings = WorkerSettings(limit_worker_concurrency=1, max_queue=1)
    worker = Worker({"echo": engine}, settings, extra_routes=published_routes)
    body = {"model": "echo", "messages": HELLO}
    async with serving(worker.app) as url, aiohttp.ClientSession() as http:
        path = f"{url}/v1/chat/completions"
        first = asyncio.create_task(http.post(path, json=body))
        await until(lambda: worker.admission.running == 1)
        second = asyncio.create_task(http.post(path, json=body | {"stream": True}))
        await until(lambda: worker.admission.waiting == 1)
        for stream in (False, True):
            third = await http.post(path, json=body | {"stream": stream})
            assert third.status == 429
            assert int(third.headers["retry-after"]) > 0
            assert (await third.json())["code"] == 42903
        engine.let_go.set()
        assert (await first).status == 200
        assert (await second).status == 200
        await (await second).read()
    assert worker.admission.queue_length == 0
