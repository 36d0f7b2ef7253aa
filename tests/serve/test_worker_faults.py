"""Clients that leave, fail, or do not read; a worker under load, and one that stops."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from in_process import WAIT_LIMIT_S, serving, until

from fastchat.engine.echo import EchoEngine, EchoOptions
from fastchat.serve import asgi
from fastchat.serve.asgi import EventStream
from fastchat.serve.published_worker import published_routes
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings

CHAT = "/v1/chat/completions"
LONG: dict[str, Any] = {
    "model": "echo",
    "messages": [{"role": "user", "content": "hello"}],
    "ignore_eos": True,
}


class Bench:
    """A worker around an echo engine of some options."""

    def __init__(self, options: EchoOptions | None = None, **limits: Any) -> None:
        self.engine = EchoEngine(options)
        settings = WorkerSettings(**limits)
        self.worker = Worker({"echo": self.engine}, settings, extra_routes=published_routes)

    @property
    def queue_length(self) -> int:
        return self.worker.admission.queue_length


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, LONG),
        (CHAT, LONG | {"stream": True}),
        (CHAT, LONG | {"stream": True, "n": 3}),
        (
            "/v1/completions",
            {"model": "echo", "prompt": ["a", "b"], "ignore_eos": True} | {"max_tokens": 4000},
        ),
        (
            "/v1/completions",
            {"model": "echo", "prompt": ["a", "b"], "ignore_eos": True}
            | {"max_tokens": 4000, "stream": True},
        ),
        ("/worker_generate", {"prompt": "x" * 2000, "max_new_tokens": 2000}),
        ("/worker_generate_stream", {"prompt": "x" * 2000, "max_new_tokens": 2000}),
    ],
)
async def test_a_client_that_leaves_ends_its_work(path: str, body: dict[str, Any]) -> None:
    bench = Bench(EchoOptions(delay_ms=5))
    async with serving(bench.worker.app) as url:
        async with aiohttp.ClientSession() as http:
            post = asyncio.create_task(http.post(url + path, json=body))
            await until(lambda: bench.engine.stats().generated_tokens_total > 5)
            if post.done():
                (await post).close()
            else:
                post.cancel()
            await until(lambda: bench.queue_length == 0)
        assert bench.engine.stats().running == 0
        assert bench.engine.aborted_total == (2 if "completions" in path and path != CHAT else 1)


@pytest.mark.slow
async def test_a_waiting_client_that_leaves_is_dropped_from_the_queue() -> None:
    bench = Bench(EchoOptions(delay_ms=5), limit_worker_concurrency=1)
    async with serving(bench.worker.app) as url, aiohttp.ClientSession() as http:
        first = asyncio.create_task(http.post(url + CHAT, json=LONG))
        await until(lambda: bench.worker.admission.running == 1)
        waiting = [
            asyncio.create_task(http.post(url + CHAT, json=LONG | {"stream": stream}))
            for stream in (False, True)
        ]
        await until(lambda: bench.worker.admission.waiting == 2)
        for task in waiting:
            task.cancel()
        await until(lambda: bench.worker.admission.waiting == 0)
        assert bench.queue_length == 1
        first.cancel()
        await until(lambda: bench.queue_length == 0)


@pytest.mark.slow
async def test_a_thousand_failing_requests_leave_nothing_behind() -> None:
    bench = Bench(
        EchoOptions(fail_on="bad", fail_after=1), limit_worker_concurrency=4, max_queue=100
    )
    bad = [{"role": "user", "content": "bad"}]
    wrong: list[tuple[str, dict[str, Any], int]] = [
        (CHAT, {"model": "echo", "messages": bad}, 500),
        (CHAT, {"model": "echo", "messages": bad, "stream": True}, 200),
        (CHAT, {"model": "echo", "messages": [{"role": "user", "content": "x" * 5000}]}, 400),
        (CHAT, {"model": "nobody", "messages": bad}, 404),
        ("/v1/completions", {"model": "echo", "prompt": ["ok", "bad"]}, 500),
        ("/v1/completions", {"model": "echo", "prompt": [1 << 30], "stream": True}, 400),
        ("/v1/embeddings", {"model": "echo", "input": "abc", "dimensions": 99}, 400),
        ("/worker_generate", {"prompt": "bad"}, 200),
        ("/worker_generate_stream", {"prompt": "bad"}, 200),
        ("/worker_get_embeddings", {"input": []}, 200),
    ]
    async with serving(bench.worker.app) as url, aiohttp.ClientSession() as http:

        async def fail(path: str, body: dict[str, Any], status: int) -> None:
            async with http.post(url + path, json=body) as reply:
                await reply.read()
                assert reply.status == status, (path, body)

        for _ in range(10):
            await asyncio.gather(*(fail(*each) for each in wrong for _ in range(10)))
            assert bench.queue_length == 0
        async with http.post(url + CHAT, json=LONG | {"max_tokens": 3}) as reply:
            assert reply.status == 200
    assert bench.engine.stats().running == 0


@pytest.mark.slow
async def test_answers_about_the_worker_come_while_it_is_busy() -> None:
    bench = Bench(EchoOptions(delay_ms=1))
    async with serving(bench.worker.app) as url, aiohttp.ClientSession() as http:
        busy = [asyncio.create_task(http.post(url + CHAT, json=LONG)) for _ in range(20)]
        await until(lambda: bench.worker.admission.running == 20)
        for path in ("/health", "/metrics", "/v1/models"):
            async with http.get(url + path) as reply:
                assert reply.status == 200
        async with http.post(f"{url}/worker_get_status") as reply:
            status = await reply.json()
        assert status == {"model_names": ["echo"], "speed": 1, "queue_length": 20}
        for task in busy:
            task.cancel()
        await until(lambda: bench.queue_length == 0)


@pytest.mark.slow
async def test_the_work_of_a_stream_that_nobody_reads_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asgi, "SSE_STALL_S", 0.2)
    monkeypatch.setattr(asgi, "SSE_LINGER_S", 0.2)
    bench = Bench(EchoOptions(context=1_000_000), stream_interval=1)
    async with serving(bench.worker.app) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as silent:
            body = json.dumps(LONG | {"stream": True}).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            silent.sendall(head.encode() + body)
            await until(lambda: bench.engine.aborted_total == 1)
            assert bench.queue_length == 0
            # Far from the end, and far from all that the system would have buffered.
            assert bench.engine.stats().generated_tokens_total < 50_000


@pytest.mark.slow
async def test_a_slow_reader_that_reads_on_is_told_why_its_stream_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asgi, "SSE_STALL_S", 0.2)
    bench = Bench(EchoOptions(context=1_000_000), stream_interval=1)
    async with serving(bench.worker.app) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=4096)
        body = json.dumps(LONG | {"stream": True}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await until(lambda: bench.engine.aborted_total == 1)
        received = b""
        async with asyncio.timeout(WAIT_LIMIT_S):
            while not received.endswith(b"0\r\n\r\n"):
                part = await reader.read(1 << 16)
                assert part
                received += part
        assert b"event: error\n" in received
        assert b"data: [DONE]\n\n" in received
        writer.close()
        await writer.wait_closed()


@pytest.mark.slow
async def test_a_quiet_stream_is_kept_open_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "SSE_KEEPALIVE_S", 0.05)
    monkeypatch.setattr(asgi, "_TICK_S", 0.02)
    bench = Bench(EchoOptions(delay_ms=300))
    body = LONG | {"stream": True, "max_tokens": 2}
    async with (
        serving(bench.worker.app) as url,
        aiohttp.ClientSession() as http,
        http.post(url + CHAT, json=body) as reply,
    ):
        text = await reply.text()
    assert text.startswith(": keep-alive\n\n")
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.slow
async def test_an_error_after_the_first_comment_is_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asgi, "SSE_KEEPALIVE_S", 0.05)
    monkeypatch.setattr(asgi, "_TICK_S", 0.02)
    bench = Bench(EchoOptions(delay_ms=300, fail_on="hello"))
    async with (
        serving(bench.worker.app) as url,
        aiohttp.ClientSession() as http,
        http.post(url + CHAT, json=LONG | {"stream": True}) as reply,
    ):
        text = await reply.text()
    assert reply.status == 200
    assert "event: error\n" in text
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.slow
async def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "BODY_TIMEOUT_S", 0.2)
    bench = Bench()
    async with serving(bench.worker.app) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        async with asyncio.timeout(WAIT_LIMIT_S):
            assert b" 400 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_a_worker_that_stops_ends_its_streams_with_an_error() -> None:
    bench = Bench(EchoOptions(delay_ms=5), limit_worker_concurrency=1)
    async with serving(bench.worker.app) as url, aiohttp.ClientSession() as http:
        post = asyncio.create_task(http.post(url + CHAT, json=LONG | {"stream": True}))
        await until(lambda: bench.engine.stats().generated_tokens_total > 5)
        waiting = asyncio.create_task(http.post(url + CHAT, json=LONG))
        await until(lambda: bench.worker.admission.waiting == 1)
        bench.worker.admission.close()
        assert (await waiting).status == 503
        await bench.engine.stop(drain_s=0.0)
        text = await (await post).text()
        assert text.endswith("data: [DONE]\n\n")
        assert "event: error\n" in text
        for method, path, body in (("GET", "/health", None), ("POST", CHAT, LONG)):
            async with http.request(method, url + path, json=body) as reply:
                assert reply.status == 503
        assert bench.queue_length == 0


@pytest.mark.slow
async def test_an_event_stream_closes_its_source_whatever_happens() -> None:
    closed: list[str] = []

    async def source(name: str) -> AsyncIterator[bytes]:
        try:
            yield b"data: 1\n\n"
            if name == "fails":
                raise ValueError("a secret")
            if name == "endless":
                await asyncio.sleep(3600)
        finally:
            closed.append(name)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await EventStream(source(scope["path"][1:]))(scope, receive, send)

    async with serving(app) as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}/ends") as reply:
            assert await reply.read() == b"data: 1\n\n"
        async with http.get(f"{url}/fails") as reply:
            text = await reply.text()
            assert "event: error" in text and "secret" not in text
        async with http.get(f"{url}/endless") as reply:
            await reply.content.readline()
        await until(lambda: len(closed) == 3)
    assert closed == ["ends", "fails", "endless"]
