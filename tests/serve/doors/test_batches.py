import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from live import LIMIT_S, serving
from real_processes import free_port
from scripted_chat import ScriptedChat, echo_gateway, gateway_to, scripted_gateway
from starlette.responses import JSONResponse, Response

from fastchat.serve.doors import batch_runner

CHAT = "/v1/chat/completions"
KEYS = ("k1", "k2")


@contextlib.asynccontextmanager
async def official(url: str, key: str = "k1") -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield client


def line(custom_id: str, text: str = "hi", *, url: str = CHAT, **more: Any) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
    whole = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return json.dumps(whole).encode() + b"\n"


async def begin(client: openai.AsyncOpenAI, content: bytes, endpoint: Any = CHAT) -> Any:
    """A new batch of these lines."""
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"a": "b"}
    )


async def ended(client: openai.AsyncOpenAI, batch: Any, limit_s: float = LIMIT_S) -> Any:
    """The batch at its end."""
    async with asyncio.timeout(limit_s):
        while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
            await asyncio.sleep(0.02)
            batch = await client.batches.retrieve(batch.id)
    return batch


async def lines_of(client: openai.AsyncOpenAI, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(each) for each in (await client.files.content(file_id)).text.splitlines()]


@pytest.mark.slow
async def test_files_are_uploaded_listed_read_and_deleted() -> None:
    async with scripted_gateway(api_keys=KEYS) as (url, _), official(url) as client:
        content = b"\x00\xff" * 800_000
        file = await client.files.create(
            file=('../a"b.jsonl', content),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert (file.bytes, file.filename, file.status) == (1_600_000, "a%22b.jsonl", "processed")
        assert file.expires_at == file.created_at + 3600
        other = await client.files.create(file=b"x", purpose="batch")
        assert (await client.files.retrieve(file.id)) == file
        assert (await client.files.content(file.id)).content == content
        seen = [one.id async for one in client.files.list(limit=1, order="asc")]
        assert seen == [file.id, other.id]
        async with official(url, "k2") as stranger:
            assert [one async for one in stranger.files.list()] == []
            for ask in (stranger.files.retrieve, stranger.files.content, stranger.files.delete):
                with pytest.raises(openai.NotFoundError):
                    await ask(file.id)
        assert (await client.files.delete(file.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(file.id)


async def test_uploads_that_cannot_be_taken_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastchat.serve.doors.gateway_doors.FILE_LIMIT_BYTES", 100_000)
    async with scripted_gateway() as (url, _), official(url) as client:
        with pytest.raises(openai.BadRequestError, match="purpose"):
            await client.files.create(file=b"x", purpose="fine-tune")
        with pytest.raises(openai.BadRequestError, match="empty"):
            await client.files.create(file=b"", purpose="batch")
        with pytest.raises(openai.APIStatusError, match="100000 bytes") as caught:
            await client.files.create(file=b"x" * 300_000, purpose="batch")
        assert caught.value.status_code == 413
        async with aiohttp.ClientSession() as session:
            form = "multipart/form-data; boundary=x"
            for kind, data in (("application/json", b"{}"), (form, b"--x\r\nnothing"), (form, b"")):
                sent = {"content-type": kind}
                async with session.post(f"{url}/v1/files", data=data, headers=sent) as reply:
                    assert reply.status == 400, (kind, data)


@pytest.mark.slow
async def test_a_batch_is_answered_into_files() -> None:
    async with scripted_gateway() as (url, chat), official(url) as client:
        chat.answer = lambda body: (
            JSONResponse({"error": {"message": "no"}}, 400)
            if body["messages"][0]["content"] == "bad"
            else JSONResponse(
                {"choices": [], "said": body["messages"][0]["content"]},
            )
        )
        content = b"".join(line(f"c{i}", f"t{i}") for i in range(20)) + b"\n" + line("x", "bad")
        batch = await ended(client, await begin(client, content.rstrip(b"\n")))
        assert (batch.status, batch.metadata) == ("completed", {"a": "b"})
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (21, 20, 1)
        answers = await lines_of(client, batch.output_file_id)
        assert [one["custom_id"] for one in answers] == [f"c{i}" for i in range(20)]
        assert [one["response"]["body"]["said"] for one in answers] == [f"t{i}" for i in range(20)]
        assert all(one["response"]["status_code"] == 200 and not one["error"] for one in answers)
        (wrong,) = await lines_of(client, batch.error_file_id)
        assert (wrong["custom_id"], wrong["response"]["status_code"]) == ("x", 400)
        assert [one.id async for one in client.batches.list(limit=1)] == [batch.id]
        assert batch.completed_at >= batch.finalizing_at >= batch.in_progress_at
        assert (await client.files.retrieve(batch.output_file_id)).purpose == "batch_output"


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", ["/v1/completions", "/v1/embeddings", "/v1/responses", CHAT])
async def test_every_endpoint_has_batches(endpoint: str) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    if endpoint != CHAT:
        body = {"model": "echo", "prompt" if endpoint == "/v1/completions" else "input": "hi"}
    whole = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
    async with echo_gateway() as url, official(url) as client:
        batch = await ended(client, await begin(client, json.dumps(whole).encode(), endpoint))
        assert batch.status == "completed", batch
        (answer,) = await lines_of(client, batch.output_file_id)
        assert answer["response"]["body"]["model"] == "echo"


@pytest.mark.slow
async def test_a_file_that_cannot_be_asked_fails_with_its_lines() -> None:
    wrong = [
        b"nonsense\n",
        b"[]\n",
        line("a"),
        line("a"),
        line("b", url="/v1/embeddings"),
        line("c", stream=True),
        json.dumps({"custom_id": "d", "method": "GET", "url": CHAT, "body": {}}).encode() + b"\n",
        json.dumps({"custom_id": "e", "method": "POST", "url": CHAT}).encode() + b"\n",
        line(""),
    ]
    async with scripted_gateway() as (url, chat), official(url) as client:
        batch = await ended(client, await begin(client, b"".join(wrong)))
        assert batch.status == "failed"
        assert [(one.line, one.code) for one in batch.errors.data] == [
            (1, "invalid_json_line"),
            (2, "invalid_json_line"),
            (4, "duplicate_custom_id"),
            (5, "mismatched_endpoint"),
            (6, "invalid_request"),
            (7, "invalid_method"),
            (8, "missing_required_parameter"),
            (9, "missing_required_parameter"),
        ]
        assert chat.bodies == []
        empty = await ended(client, await begin(client, b"\n\n"))
        assert (empty.status, empty.errors.data[0].code) == ("failed", "empty_file")
        for fields in (
            {"endpoint": "/v1/moderations"},
            {"completion_window": "1h"},
            {"input_file_id": "file-none"},
            {"metadata": {"a": 1}},
        ):
            asked = {
                "endpoint": CHAT,
                "completion_window": "24h",
                "input_file_id": batch.input_file_id,
            }
            with pytest.raises(openai.BadRequestError, match=next(iter(fields))):
                await client.batches.create(**(asked | fields))


class Gate:
    """An endpoint that answers some lines and holds the others until it is opened."""

    def __init__(self, chat: ScriptedChat, *held: str) -> None:
        self.opened = asyncio.Event()
        self.asked: list[str] = []
        self._held = held
        chat.answer = self._answer

    def _answer(self, body: dict[str, Any]) -> Response:
        text = body["messages"][0]["content"]
        self.asked.append(text)
        return _Held(self, {"said": text}, waits=text in self._held)


class _Held(JSONResponse):
    def __init__(self, gate: Gate, value: Any, *, waits: bool) -> None:
        super().__init__(value)
        self._gate = gate
        self._waits = waits

    async def __call__(self, *args: Any) -> None:
        if self._waits:
            await self._gate.opened.wait()
        await super().__call__(*args)


async def answered(client: openai.AsyncOpenAI, batch: Any, count: int) -> None:
    """Returns when so many lines have their answers."""
    async with asyncio.timeout(LIMIT_S):
        while batch.request_counts.completed < count:
            await asyncio.sleep(0.02)
            batch = await client.batches.retrieve(batch.id)


@pytest.mark.slow
async def test_a_batch_goes_on_where_a_stopped_gateway_left_it(tmp_path: Path) -> None:
    chat = ScriptedChat()
    database = {"database_url": str(tmp_path / "store.db"), "api_keys": ("k1",)}
    async with serving(chat.app) as inner:
        gate = Gate(chat, "t3")
        async with gateway_to(inner, **database) as url, official(url) as client:
            batch = await begin(client, b"".join(line(f"c{i}", f"t{i}") for i in range(5)))
            await answered(client, batch, 4)
        gate.opened.set()
        async with gateway_to(inner, **database) as url, official(url) as client:
            batch = await ended(client, await client.batches.retrieve(batch.id))
            assert batch.status == "completed"
            answers = await lines_of(client, batch.output_file_id)
            assert [one["custom_id"] for one in answers] == [f"c{i}" for i in range(5)]
    assert sorted(gate.asked) == ["t0", "t1", "t2", "t3", "t3", "t4"]


@pytest.mark.slow
async def test_a_cancelled_batch_keeps_what_was_answered() -> None:
    async with scripted_gateway() as (url, chat), official(url) as client:
        gate = Gate(chat, "t1")
        batch = await begin(client, b"".join(line(f"c{i}", f"t{i}") for i in range(2)))
        await answered(client, batch, 1)
        assert (await client.batches.cancel(batch.id)).status == "cancelling"
        batch = await ended(client, batch)
        assert batch.status == "cancelled" and batch.cancelled_at >= batch.cancelling_at
        (good,) = await lines_of(client, batch.output_file_id)
        (bad,) = await lines_of(client, batch.error_file_id)
        assert good["custom_id"] == "c0"
        assert (bad["custom_id"], bad["error"]["code"]) == ("c1", "batch_cancelled")
        assert sorted(gate.asked) == ["t0", "t1"]
        again = await client.batches.cancel(batch.id)
        assert again.status == "cancelled"


@pytest.mark.slow
async def test_one_key_sees_nothing_of_anothers_batches() -> None:
    async with (
        scripted_gateway(api_keys=KEYS) as (url, _),
        official(url) as client,
        official(url, "k2") as stranger,
    ):
        batch = await ended(client, await begin(client, line("a")))
        assert [one async for one in stranger.batches.list()] == []
        for ask in (stranger.batches.retrieve, stranger.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await ask(batch.id)
        with pytest.raises(openai.BadRequestError, match="input_file_id"):
            await stranger.batches.create(
                input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
            )
        with pytest.raises(openai.NotFoundError):
            await stranger.files.content(batch.output_file_id)


@pytest.mark.slow
async def test_a_busy_endpoint_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setitem(batch_runner.BatchRunner.__init__.__kwdefaults__, "sleep", sleep)
    replies = iter([JSONResponse({"error": {"message": "full"}}, 429, {"retry-after": "7"})])
    async with scripted_gateway() as (url, chat), official(url) as client:
        chat.answer = lambda body: next(replies, JSONResponse({"ok": 1}))
        batch = await ended(client, await begin(client, line("a")))
        assert (batch.status, batch.request_counts.completed) == ("completed", 1)
        assert waits == [7.0]
        used_up = {"error": {"message": "used up", "code": "insufficient_quota"}}
        chat.answer = lambda body: JSONResponse(used_up, 429)
        batch = await ended(client, await begin(client, line("a")))
        assert (batch.status, batch.request_counts.failed) == ("completed", 1)
        assert waits == [7.0]


@pytest.mark.slow
async def test_a_batch_survives_kill_9_of_its_gateway(tmp_path: Path) -> None:
    chat = ScriptedChat()
    gate = Gate(chat, "t3")
    async with serving(chat.app) as inner:
        first, url = await started_gateway(inner, tmp_path)
        try:
            async with official(url) as client:
                batch = await begin(client, b"".join(line(f"c{i}", f"t{i}") for i in range(5)))
                await answered(client, batch, 4)
        finally:
            first.kill()
            await first.wait()
        gate.opened.set()
        second, url = await started_gateway(inner, tmp_path)
        try:
            async with official(url) as client:
                batch = await ended(client, await client.batches.retrieve(batch.id))
                assert (batch.status, batch.request_counts.completed) == ("completed", 5)
                answers = await lines_of(client, batch.output_file_id)
        finally:
            second.terminate()
            await second.wait()
    assert [one["custom_id"] for one in answers] == [f"c{i}" for i in range(5)]
    assert sorted(gate.asked) == ["t0", "t1", "t2", "t3", "t3", "t4"]


async def started_gateway(
    endpoint_url: str, folder: Path
) -> tuple[asyncio.subprocess.Process, str]:
    """A gateway's process that knows the model, and its address."""
    port = free_port()
    words = ["--endpoint", endpoint_url, "--port", str(port), "--host", "127.0.0.1"]
    words += ["--api-keys", "k1", "--database-url", str(folder / "store.db")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fastchat.serve.openai_api_server", *words),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=folder,
        env={**os.environ, "LOGDIR": str(folder)},
    )
    url = f"http://127.0.0.1:{port}"
    async with official(url) as client, asyncio.timeout(LIMIT_S):
        while True:
            with contextlib.suppress(openai.APIError):
                if (await client.models.list()).data:
                    return process, url
            await asyncio.sleep(0.05)
