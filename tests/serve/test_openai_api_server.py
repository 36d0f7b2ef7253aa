import asyncio
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import openai
import pytest
from fake_endpoint import FakeEndpoint
from live import LIMIT_S, serving, until
from starlette.types import ASGIApp

from fastchat.errors import UsageError
from fastchat.serve import forwarder
from fastchat.serve.openai_api_server import Gateway, GatewaySettings, create_app
from fastchat.serve.router import Router
from fastchat.settings import parse

CHAT = "/v1/chat/completions"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
FORWARDED = [CHAT, "/v1/completions", "/v1/embeddings", "/api" + CHAT, "/tokenize", "/detokenize"]


class Client:
    """A gateway in front of fake endpoints, and how to talk to it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def post(
        self, path: str, body: Any, **headers: str
    ) -> tuple[int, dict[str, Any], aiohttp.ClientResponse]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = io.BytesIO(data) if len(data) > 500_000 else data
        async with self.session.post(self.url + path, data=sent, headers=headers) as reply:
            return reply.status, json.loads(await reply.read()), reply

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        async with self.session.get(self.url + path, headers=headers) as reply:
            return reply.status, json.loads(await reply.read())


@contextlib.asynccontextmanager
async def gateway(*endpoints: FakeEndpoint, **fields: Any) -> AsyncIterator[Client]:
    """A gateway that has heard of all `endpoints`, and asks the first of them first."""
    urls = tuple(endpoint.url for endpoint in endpoints)
    app, router = _made(GatewaySettings(host="127.0.0.1", endpoint=urls, **fields))
    headers = {"authorization": "Bearer k1"} if "api_keys" in fields else {}
    async with serving(app) as url, aiohttp.ClientSession(headers=headers) as session:
        client = Client(url, session)
        await until(lambda: all(router.get(url) for url in urls))
        for known in [router.get(url) for url in urls]:  # they may have answered in any order
            assert known is not None
            router.unregister(known.name)
            router.register(known, now=time.monotonic())
        yield client


def _made(settings: GatewaySettings) -> tuple[ASGIApp, Router]:
    """A gateway with what belongs around it, and its table."""
    made: list[Gateway] = []

    class Noted(Gateway):
        def __init__(self, settings: GatewaySettings) -> None:
            super().__init__(settings)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastchat.serve.openai_api_server.Gateway", Noted)
        app = create_app(settings)
    return app, made[0].roster.router


def official_client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url + "/v1", api_key="x", max_retries=0)


@pytest.mark.slow
@pytest.mark.parametrize("path", FORWARDED)
async def test_the_same_bytes_reach_the_endpoint(path: str) -> None:
    body = b' {"prompt": "x y",  "model":"m", "unknown": [1.50, "\xc3\xa9"]}'
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        status, _, _ = await client.post(path, body)
        assert status == 200
        assert endpoint.bodies == [body]
        assert endpoint.paths == [path.removeprefix("/api")]


@pytest.mark.slow
async def test_a_clients_key_and_cookies_stay_here() -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint, api_keys=("k1",)) as client:
        await client.post(CHAT, HELLO, cookie="a=b", **{"x-forwarded-for": "1.2.3.4"})
        head = endpoint.heads[-1].lower()
        assert "k1" not in head and "cookie" not in head and "1.2.3.4" not in head


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["answer", "crlf"])
async def test_a_stream_passes_as_it_is(mode: str) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        endpoint.mode = mode
        async with client.session.post(client.url + CHAT, json=HELLO | {"stream": True}) as reply:
            raw = await reply.read()
            assert reply.status == 200
            assert reply.headers["content-type"] == "text/event-stream"
            assert "server" not in reply.headers
        assert raw.count(b"data: {") == 5
        assert raw.rstrip().endswith(b"data: [DONE]")


@pytest.mark.slow
async def test_the_official_client_chats_streams_and_lists() -> None:
    async with (
        FakeEndpoint("m") as endpoint,
        gateway(endpoint) as client,
        official_client(client.url) as official,
    ):
        answer = await official.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}]
        )
        assert answer.choices[0].message.content == "ok"
        stream = await official.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        pieces = [chunk.choices[0].delta.content async for chunk in stream]
        assert pieces == ["a "] * 5
        assert [model.id async for model in official.models.list()] == ["m"]
        with pytest.raises(openai.NotFoundError):
            await official.chat.completions.create(model="x", messages=[])


@pytest.mark.slow
async def test_models_come_from_the_own_table() -> None:
    async with FakeEndpoint("m", "org/b") as endpoint, gateway(endpoint) as client:
        endpoint.mode = "hung"
        status, listed = await client.get("/v1/models")
        assert status == 200
        assert [card["id"] for card in listed["data"]] == ["m", "org/b"]
        assert {card["context_length"] for card in listed["data"]} == {64}
        for model in ("org/b", "org%2Fb"):
            status, card = await client.get(f"/v1/models/{model}")
            assert (status, card["id"], card["object"]) == (200, "org/b", "model")
        assert (await client.get("/v1/models/none"))[0] == 404


MALFORMED: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"nonsense", 400),
    (b"[]", 400),
    (b"null", 400),
    (b"3", 400),
    (b'"m"', 400),
    (b"{", 400),
    (b"{}", 400),
    (b'{"model":null}', 400),
    (b'{"model":3}', 400),
    (b'{"model":["m"]}', 400),
    (b'{"model":{"m":1}}', 400),
    (b'{"model":true}', 400),
    (b'{"model":NaN}', 400),
    (b'{"model":"m",}', 400),
    (b'{"model":"\xff\xfe"}', 400),
    (b'{"model":"\\ud800"}', 400),
    (b"\xef\xbb\xbf{}", 400),
    (b'{"model":"m","a":' + b"[" * 3000 + b"]" * 3000 + b"}", 400),
    (b"[" * 1_000_000, 400),
    (b'{"a":' * 500_000, 400),
    (b'{"model":' + b"9" * 300_000 + b"}", 400),
    (b'{"model":""}', 404),
    (b'{"model":"none"}', 404),
    (b'{"model":"M"}', 404),
    (b'{"model":"m "}', 404),
    (b'{"model":"../../etc/passwd"}', 404),
    (b'{"model":"\\u0000"}', 404),
    (b'{"model":"' + b"x" * 10_000 + b'"}', 404),
    (b'{"model":"' + b"x" * 1_000_000 + b'"}', 404),
    (b'{"model":"<script>alert(1)</script>"}', 404),
]


@pytest.mark.slow
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
async def test_malformed_bodies_are_refused_in_the_published_shape(path: str) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        for body, expected in MALFORMED:
            status, reply, _ = await client.post(path, body)
            assert status == expected, body[:80]
            error = reply["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["type"] == "invalid_request_error"
            assert reply["object"] == "error" and isinstance(reply["code"], int)
            assert len(error["message"]) < 400
            for inside in ("Traceback", "/fastchat", "site-packages", "0x"):
                assert inside not in error["message"]
        assert endpoint.bodies == []
        assert (await client.post(CHAT, HELLO))[0] == 200


@pytest.mark.slow
async def test_a_tokenize_request_may_leave_out_the_only_model() -> None:
    async with FakeEndpoint("m") as one, gateway(one) as client:
        status, reply, _ = await client.post("/tokenize", {"prompt": "a b c"})
        assert (status, reply["count"]) == (200, 3)
    async with FakeEndpoint("m", "n") as two, gateway(two) as client:
        status, reply, _ = await client.post("/tokenize", {"prompt": "a b c"})
        assert (status, reply["error"]["param"]) == (400, "model")


@pytest.mark.slow
async def test_bodies_beyond_the_limit_are_refused_announced_or_not() -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint, max_body_mb=0.5) as client:
        body = json.dumps(HELLO | {"fill": "x" * 600_000}).encode()
        assert (await client.post(CHAT, body))[0] == 413

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 65536):
                yield body[start : start + 65536]

        async with client.session.post(client.url + CHAT, data=pieces()) as reply:
            assert reply.status == 413
        assert (await client.post(CHAT, HELLO))[0] == 200


@pytest.mark.slow
async def test_a_large_body_is_passed_on() -> None:
    body = json.dumps(HELLO | {"fill": "x" * 9_000_000}).encode()
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        assert (await client.post(CHAT, body))[0] == 200
        assert endpoint.bodies == [body]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("PUT", CHAT, 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/v1/models/m", 405),
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/docs", 200),
        ("POST", "/v1/chat/completions/", 404),
        ("GET", "/v1/models/../../etc/passwd", 404),
        ("POST", "/worker_generate_stream", 404),
        ("POST", "//v1/chat/completions", 404),
        ("GET", "/" + "x" * 5000, 404),
        ("HEAD", "/health", 200),
    ],
)
async def test_routes_and_methods(method: str, path: str, status: int) -> None:
    async with (
        FakeEndpoint("m") as endpoint,
        gateway(endpoint) as client,
        client.session.request(method, client.url + path, data=b"{}") as reply,
    ):
        assert reply.status == status
        if status >= 400:
            assert (await reply.json())["error"]["message"]


@pytest.mark.slow
async def test_every_route_but_health_wants_a_key() -> None:
    paths = [*FORWARDED, "/v1/models", "/v1/models/m", "/metrics", "/api/v1/token_check", "/x"]
    paths += ["/v1/engines/m/embeddings", "/docs", "/refresh_all_workers"]
    wrong = [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
        {"authorization": "k1"},
        {"authorization": "Basic k1"},
        {"authorization": "Bearer " + "x" * 5000},
        {"authorization": "Bearer ' OR 1=1 --"},
        {"x-api-key": "wrong"},
        {"api-key": ""},
    ]
    async with FakeEndpoint("m") as endpoint, gateway(endpoint, api_keys=("k1", "k2")) as client:
        async with aiohttp.ClientSession() as stranger:
            for path in paths:
                for headers in wrong:
                    async with stranger.post(
                        client.url + path, headers=headers, data=b"{}"
                    ) as reply:
                        assert reply.status == 401, (path, headers)
                        assert (await reply.json())["error"]["code"] == "invalid_api_key"
                async with stranger.get(client.url + path) as reply:
                    assert reply.status == 401
            for query in ("?key=k1", "?api_key=k1", "?authorization=Bearer%20k1"):
                async with stranger.get(client.url + "/v1/models" + query) as reply:
                    assert reply.status == 401
            async with stranger.get(client.url + "/health") as reply:
                assert reply.status == 200
            for headers in ({"authorization": "Bearer k2"}, {"x-api-key": "k1"}):
                async with stranger.get(client.url + "/v1/models", headers=headers) as reply:
                    assert reply.status == 200
        assert endpoint.bodies == []


@pytest.mark.slow
async def test_an_endpoint_that_breaks_before_a_byte_is_replaced_by_another() -> None:
    async with FakeEndpoint("m") as bad, FakeEndpoint("m") as good, gateway(bad, good) as client:
        for mode in ("break_first", "garbage", "cut_json"):
            bad.mode = mode
            for stream in (False, True):
                n_bad = len(bad.bodies)
                status, reply, _ = await _ask(client, stream)
                assert status == 200 and b"error" not in reply
                assert len(bad.bodies) in (n_bad, n_bad + 1)
        assert bad.bodies  # it was tried, and its clients never noticed


async def _ask(client: Client, stream: bool) -> tuple[int, bytes, aiohttp.ClientResponse]:
    body = HELLO | {"stream": stream}
    async with client.session.post(client.url + CHAT, json=body) as reply:
        return reply.status, await reply.read(), reply


@pytest.mark.slow
async def test_a_port_that_closed_is_replaced_by_another_and_found_again() -> None:
    async with FakeEndpoint("m") as bad, FakeEndpoint("m") as good, gateway(bad, good) as client:
        await bad.close()
        for _ in range(4):
            assert (await _ask(client, stream=True))[0] == 200
        assert len(good.bodies) == 4
        await bad.listen()
        async with asyncio.timeout(LIMIT_S):
            while not bad.bodies:  # its health is asked for until it answers
                assert (await _ask(client, stream=False))[0] == 200
                await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_full_endpoint_is_left_for_another() -> None:
    async with FakeEndpoint("m") as full, FakeEndpoint("m") as free, gateway(full, free) as client:
        full.mode = "busy"
        for _ in range(3):
            assert (await _ask(client, stream=False))[0] == 200
        free.mode = "busy"
        status, reply, response = await client.post(CHAT, HELLO)
        assert (status, reply["error"]["message"]) == (429, "full")
        assert response.headers["retry-after"] == "7"
        assert "x-secret" not in response.headers


@pytest.mark.slow
async def test_nobody_up_is_503_with_a_time_to_wait() -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        await endpoint.close()
        status, reply, response = await client.post(CHAT, HELLO)
        assert status == 503
        assert int(response.headers["retry-after"]) > 0
        assert endpoint.url not in json.dumps(reply)
        await endpoint.listen()


@pytest.mark.slow
async def test_a_gateway_that_knows_nothing_yet_says_try_again() -> None:
    async with FakeEndpoint("m") as endpoint:
        url = endpoint.url
    app = create_app(GatewaySettings(host="127.0.0.1", controller_address=url))
    async with serving(app) as base, aiohttp.ClientSession() as session:
        status, reply, _ = await Client(base, session).post(CHAT, HELLO)
        assert (status, reply["error"]["type"]) == (503, "service_unavailable")


@pytest.mark.slow
async def test_a_stream_that_breaks_ends_with_an_error_event_and_no_torn_event() -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        endpoint.mode = "break_middle"
        status, raw, _ = await _ask(client, stream=True)
        assert status == 200
        *events, error, done = [part for part in raw.split(b"\n\n") if part]
        assert done == b"data: [DONE]"
        assert error.startswith(b"event: error\ndata: ")
        assert json.loads(error.split(b"data: ", 1)[1])["error"]["type"] == "service_unavailable"
        assert len(events) == 5
        for event in events:
            json.loads(event.removeprefix(b"data: "))
        with pytest.raises(openai.APIError):
            async with official_client(client.url) as official:
                stream = await official.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "hi"}], stream=True
                )
                async for _ in stream:
                    pass


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "stream"), [("drip", True), ("silent", True), ("silent", False)])
async def test_a_client_that_leaves_ends_the_work(mode: str, stream: bool) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        endpoint.mode = mode
        async with aiohttp.ClientSession() as leaver:
            request = asyncio.create_task(
                leaver.post(client.url + CHAT, json=HELLO | {"stream": stream})
            )
            await until(lambda: endpoint.bodies)
            if mode == "drip":
                (await request).close()
            else:
                request.cancel()
        await until(lambda: endpoint.n_gone == 1)
        async with asyncio.timeout(LIMIT_S):
            while (await client.get("/health"))[1]["in_flight"]:
                await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_stream_that_nobody_reads_is_stopped() -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        endpoint.mode = "flood"
        _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(client.url).port)
        body = json.dumps(HELLO | {"stream": True}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await until(lambda: endpoint.n_gone == 1)
        assert (await client.get("/health"))[0] == 200
        writer.close()
        await writer.wait_closed()


@pytest.mark.slow
async def test_a_comment_keeps_a_quiet_stream_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "SSE_KEEPALIVE_S", 0.3)
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        endpoint.mode = "lull"
        async with client.session.post(client.url + CHAT, json=HELLO | {"stream": True}) as reply:
            async with asyncio.timeout(LIMIT_S):
                raw = b""
                while raw.count(b": keep-alive\n\n") < 2:
                    raw += await reply.content.readany()
        assert raw.startswith(b"data: {") and raw.index(b": keep") > raw.index(b"\n\n")


@pytest.mark.slow
async def test_a_stream_that_falls_silent_ends_with_a_timeout_event() -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint, worker_api_timeout=1.0) as client:
        endpoint.mode = "lull"
        status, raw, _ = await _ask(client, stream=True)
        assert status == 200
        assert b'"code":"timeout"' in raw and raw.endswith(b"data: [DONE]\n\n")


@pytest.mark.slow
async def test_a_request_is_sent_at_most_once_more_to_the_same_endpoint() -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        await asyncio.gather(*(_ask(client, stream=True) for _ in range(8)))
        endpoint.mode = "break_first"
        n_before = len(endpoint.bodies)
        assert (await _ask(client, stream=False))[0] == 503
        assert len(endpoint.bodies) - n_before <= 2


@pytest.mark.slow
async def test_silence_is_a_timeout() -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint, worker_api_timeout=1.0) as client:
        endpoint.mode = "silent"
        for stream in (False, True):
            status, reply, _ = await client.post(CHAT, HELLO | {"stream": stream})
            assert (status, reply["error"]["code"]) == (504, "timeout")
        await until(lambda: endpoint.n_gone == 2)


@pytest.mark.slow
async def test_a_hung_endpoint_gives_its_requests_to_another() -> None:
    async with FakeEndpoint("m") as hung, FakeEndpoint("m") as good, gateway(hung, good) as client:
        hung.mode = "hung"
        replies = await asyncio.gather(*(_ask(client, stream=True) for _ in range(6)))
        assert [reply[0] for reply in replies] == [200] * 6
        assert len(good.bodies) == 6
        n_before = len(hung.asked)
        assert (await _ask(client, stream=False))[0] == 200
        assert CHAT not in hung.asked[n_before:]  # probes only: nobody waits for it again


@pytest.mark.slow
async def test_a_silent_but_healthy_endpoint_keeps_its_request() -> None:
    async with FakeEndpoint("m") as slow, FakeEndpoint("m") as good, gateway(slow, good) as client:
        slow.mode = "silent"
        request = asyncio.create_task(_ask(client, stream=False))
        await until(lambda: slow.bodies)
        await until(lambda: slow.asked.count("/health") > 1)
        assert not request.done() and not good.bodies
        slow.mode = "answer"
        request.cancel()


@pytest.mark.slow
async def test_a_thousand_failing_requests_leave_nothing_behind() -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        modes = ["break_first", "break_middle", "garbage", "cut_json", "busy"]
        for start in range(0, 1000, 50):
            endpoint.mode = modes[start // 50 % len(modes)]
            await asyncio.gather(*(_ask(client, stream=True) for _ in range(50)))
        endpoint.mode = "answer"
        assert (await _ask(client, stream=True))[0] == 200
        async with asyncio.timeout(LIMIT_S):
            while (await client.get("/health"))[1]["in_flight"]:
                await asyncio.sleep(0.01)
        async with client.session.get(client.url + "/metrics") as reply:
            text = await reply.text()
        assert "fastchat_gateway_in_flight 0.0\n" in text


@pytest.mark.slow
async def test_the_old_embeddings_route_names_the_model() -> None:
    async with FakeEndpoint("org/m") as endpoint, gateway(endpoint) as client:
        path = "/v1/engines/org/m/embeddings"
        assert (await client.post(path, {"input": "x"}))[0] == 200
        assert json.loads(endpoint.bodies[-1]) == {"input": "x", "model": "org/m"}
        assert (await client.post(path, b'{"model":"org/m", "input":1}'))[0] == 200
        assert endpoint.bodies[-1] == b'{"model":"org/m", "input":1}'
        assert (await client.post("/v1/engines/none/embeddings", {"input": "x"}))[0] == 404
        assert (await client.post(path, b"[]"))[0] == 400


@pytest.mark.slow
async def test_prompts_are_checked_against_the_context() -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        prompts = [{"model": "m", "prompt": "a b c", "max_tokens": n} for n in (0, 61, 62)]
        status, reply, _ = await client.post("/api/v1/token_check", {"prompts": prompts})
        assert status == 200
        assert reply["prompts"][0] == {"fits": True, "tokenCount": 3, "contextLength": 64}
        assert [prompt["fits"] for prompt in reply["prompts"]] == [True, True, False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"prompts": "x"}, 400),
        ({"prompts": [3]}, 400),
        ({"prompts": [{"model": "m"}]}, 400),
        ({"prompts": [{"model": "m", "prompt": "x", "max_tokens": -1}]}, 400),
        ({"prompts": [{"model": "m", "prompt": "x", "max_tokens": "3"}]}, 400),
        ({"prompts": [{"model": "m", "prompt": "x"}] * 1000}, 400),
        ({"prompts": [{"model": "none", "prompt": "x", "max_tokens": 1}]}, 404),
        ({"prompts": []}, 200),
    ],
)
async def test_malformed_token_checks_are_refused(body: Any, status: int) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        assert (await client.post("/api/v1/token_check", body))[0] == status


@pytest.mark.slow
async def test_browsers_on_this_machine_may_call_by_default_and_no_others() -> None:
    async with FakeEndpoint("m") as endpoint, gateway(endpoint) as client:
        for origin, ok in (("http://localhost:3000", True), ("https://evil.example", False)):
            async with client.session.get(
                client.url + "/v1/models", headers={"origin": origin}
            ) as reply:
                assert (reply.headers.get("access-control-allow-origin") == origin) is ok
            preflight = {"origin": origin, "access-control-request-method": "POST"}
            async with client.session.options(client.url + CHAT, headers=preflight) as reply:
                assert (reply.status == 200) is ok


@pytest.mark.slow
async def test_named_pages_may_call() -> None:
    page = "https://chat.example"
    fields: dict[str, Any] = {"allowed_origins": (page,), "allow_credentials": True}
    async with (
        FakeEndpoint("m") as endpoint,
        gateway(endpoint, **fields) as client,
        client.session.get(client.url + "/health", headers={"origin": page}) as reply,
    ):
        assert reply.headers["access-control-allow-origin"] == page
        assert reply.headers["access-control-allow-credentials"] == "true"


def test_on_all_addresses_no_page_may_call_by_default() -> None:
    assert isinstance(create_app(GatewaySettings(host="0.0.0.0")), Gateway)


@pytest.mark.parametrize(
    "fields",
    [
        {"allow_credentials": True},
        {"allow_credentials": True, "allowed_origins": ("*",)},
        {"controller_address": "localhost:21001"},
        {"endpoint": ("ftp://x",)},
        {"worker_api_timeout": 0.0},
        {"max_body_mb": 0.0},
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        GatewaySettings(**fields)


def test_published_flags_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCHAT_CONTROLLER_URL", "http://old:1")
    monkeypatch.setenv("API_KEYS", "a,b")
    monkeypatch.setenv("FASTCHAT_WORKER_API_TIMEOUT", "7")
    settings = parse(GatewaySettings, ["--allowed-origins", '["http://x"]', "--allow-credentials"])
    assert settings.controller_address == "http://old:1"
    assert settings.api_keys == ("a", "b")
    assert settings.worker_api_timeout == 7
    assert settings.allowed_origins == ("http://x",) and settings.allow_credentials
    monkeypatch.setenv("CONTROLLER_ADDRESS", "http://new:1")
    assert parse(GatewaySettings, []).controller_address == "http://new:1"
    settings = parse(
        GatewaySettings,
        ["--controller", "http://flag:1", "--api-keys", "c", "--allowed-methods", '["GET"]'],
    )
    assert (settings.controller_address, settings.api_keys) == ("http://flag:1", ("c",))
    assert settings.allowed_methods == ("GET",)
    settings = parse(GatewaySettings, ["--endpoint", "http://a:1", "--endpoint", "http://b:1"])
    assert settings.endpoint == ("http://a:1", "http://b:1")
    with pytest.raises(SystemExit):
        parse(GatewaySettings, ["--allowed-origins", "*"])
