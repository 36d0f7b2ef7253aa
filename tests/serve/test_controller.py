import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from fake_endpoint import FakeEndpoint
from live import LIMIT_S, serving, until

from fastchat.errors import UsageError
from fastchat.serve import registry
from fastchat.serve.controller import Controller, ControllerSettings, create_app

STATUS = {"model_names": ["m"], "speed": 1, "queue_length": 0}


class Client:
    """A controller, and how to talk to it."""

    def __init__(self, url: str, controller: Controller, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.controller = controller
        self.session = session

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(self.url + path, data=data, headers=headers) as reply:
            return reply.status, json.loads(await reply.read())

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.url + path) as reply:
            return reply.status, await reply.text()

    async def register(self, name: str, *models: str, **fields: Any) -> tuple[int, Any]:
        status = {**STATUS, "model_names": list(models or ("m",))}
        body = {"worker_name": name, "check_heart_beat": True, "worker_status": status}
        return await self.post("/register_worker", {**body, **fields})

    async def models(self) -> list[str]:
        return (await self.post("/list_models"))[1]["models"]


@contextlib.asynccontextmanager
async def controlling(**fields: Any) -> AsyncIterator[Client]:
    app = create_app(ControllerSettings(host="127.0.0.1", **fields))
    async with serving(app) as url, aiohttp.ClientSession() as session:
        yield Client(url, app.state.controller, session)


@pytest.mark.slow
async def test_a_worker_registers_is_offered_and_leaves() -> None:
    async with controlling() as client:
        assert await client.register("http://localhost:21002/", "a", "b") == (200, None)
        assert await client.models() == ["a", "b"]
        address = {"address": "http://localhost:21002"}
        assert await client.post("/get_worker_address", {"model": "a"}) == (200, address)
        beat = {"worker_name": "http://localhost:21002", "queue_length": 3}
        status, reply = await client.post("/receive_heart_beat", beat)
        assert (status, reply["exist"]) == (200, True)
        assert reply["controller_id"] == client.controller.registry.id
        for found in (True, False):  # leaving twice is no error
            left = await client.post("/unregister_worker", {"worker_name": beat["worker_name"]})
            assert left == (200, {"found": found})
        assert await client.models() == []
        assert (await client.post("/receive_heart_beat", beat))[1]["exist"] is False


@pytest.mark.slow
async def test_an_unserved_model_has_the_empty_address() -> None:
    async with controlling() as client:
        reply = await client.post("/get_worker_address", {"model": "none"})
        assert reply == (200, {"address": ""})


@pytest.mark.slow
async def test_details_come_when_asked_for() -> None:
    async with controlling() as client:
        info = {"context_length": 4096, "max_running": 4}
        await client.register("http://localhost:21002", worker_info=info, multimodal=True)
        _, reply = await client.post("/get_worker_address", {"model": "m", "detail": True})
        assert reply["worker_info"] == {**info, "multimodal": True}
        assert (await client.post("/list_multimodal_models"))[1] == {"models": ["m"]}
        assert (await client.post("/list_language_models"))[1] == {"models": []}


@pytest.mark.slow
async def test_addresses_alternate_between_beats() -> None:
    async with controlling() as client:
        for port in (21002, 21003):
            await client.register(f"http://localhost:{port}")
        replies = [await client.post("/get_worker_address", {"model": "m"}) for _ in range(4)]
        assert [reply[1]["address"][-1] for reply in replies] == ["2", "3", "2", "3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'{"worker_name":3,"check_heart_beat":true,"queue_length":0}',
    ],
)
@pytest.mark.parametrize("path", ["/register_worker", "/receive_heart_beat", "/unregister_worker"])
async def test_malformed_bodies_are_refused_with_a_reason(path: str, body: bytes) -> None:
    async with controlling() as client:
        await expect_refusal(client, path, body)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"check_heart_beat": None},
        {"check_heart_beat": 1},
        {"worker_status": []},
        {"worker_status": {}},
        {"worker_status": {**STATUS, "speed": 0}},
        {"worker_status": {**STATUS, "queue_length": -1}},
        {"worker_status": {**STATUS, "model_names": [""]}},
    ],
)
async def test_impossible_registrations_are_refused(fields: dict[str, Any]) -> None:
    body = {"worker_name": "http://localhost:21002", "check_heart_beat": True}
    async with controlling() as client:
        await expect_refusal(client, "/register_worker", body | fields)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"queue_length": -1}, {"queue_length": "many"}])
async def test_impossible_heart_beats_are_refused(fields: dict[str, Any]) -> None:
    async with controlling() as client:
        await client.register("http://localhost:21002")
        body = {"worker_name": "http://localhost:21002"} | fields
        status, reply = await client.post("/receive_heart_beat", body)
        assert (status, reply["error"]["param"]) == (422, "queue_length")


async def expect_refusal(client: Client, path: str, body: Any) -> None:
    status, reply = await client.post(path, body)
    assert status == 422
    assert reply["error"]["message"] and reply["message"] == reply["error"]["message"]
    assert await client.models() == []


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/get_worker_address", "/worker_generate_stream"])
@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"model":3}'])
async def test_a_question_without_a_model_is_refused(path: str, body: bytes) -> None:
    async with controlling() as client:
        assert (await client.post(path, body))[0] == 422


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "http://169.254.169.254:80",
        "http://[::ffff:169.254.169.254]:80",
        "http://127.0.0.1:22",
        "file:///etc/passwd",
        "gopher://localhost",
        "http://user:pass@localhost:1234",
        "http://localhost:" + "1" * 5000,
        "http://nowhere.invalid:21002",
    ],
)
@pytest.mark.parametrize("with_status", [True, False])
async def test_addresses_that_may_not_be_used_are_refused(name: str, with_status: bool) -> None:
    async with controlling() as client:
        fields = {} if with_status else {"worker_status": None}
        status, reply = await client.register(name, **fields)
        assert status == 400
        assert "pass" not in reply["error"]["message"].replace("passwd", "")
        assert await client.models() == []


@pytest.mark.slow
async def test_a_registration_without_status_asks_the_endpoint() -> None:
    async with controlling() as client, FakeEndpoint("x", "y") as endpoint:
        body = {"worker_name": endpoint.url, "check_heart_beat": False}
        assert await client.post("/register_worker", body) == (200, None)
        assert await client.models() == ["x", "y"]
        _, reply = await client.post("/get_worker_address", {"model": "x", "detail": True})
        assert reply["worker_info"]["context_length"] == 64
        body["model_names"] = ["alias"]
        assert await client.post("/register_worker", body) == (200, None)
        assert await client.models() == ["alias"]


@pytest.mark.slow
async def test_a_registration_of_nobody_is_refused() -> None:
    async with controlling() as client, FakeEndpoint("x") as endpoint:
        await endpoint.close()
        body = {"worker_name": endpoint.url, "check_heart_beat": False}
        status, reply = await client.post("/register_worker", body)
        assert status == 400
        assert "does not answer" in reply["error"]["message"]
        await endpoint.listen()


@pytest.mark.slow
async def test_a_token_guards_what_changes_the_table() -> None:
    async with controlling(worker_token="s3cret") as client, FakeEndpoint("x") as endpoint:
        guarded = {
            "/register_worker": {"worker_name": endpoint.url, "check_heart_beat": False},
            "/receive_heart_beat": {"worker_name": endpoint.url, "queue_length": 0},
            "/unregister_worker": {"worker_name": endpoint.url},
            "/refresh_all_workers": None,
        }
        for path, body in guarded.items():
            for sent in (None, "s3cret", "Bearer", "Bearer wrong", "Basic s3cret", "Bearer s3cre"):
                headers = {"authorization": sent} if sent else {}
                status, reply = await client.post(path, body, **headers)
                assert status == 401
                assert "s3cret" not in json.dumps(reply)
        assert endpoint.n_connections == 0
        for path, body in guarded.items():
            assert (await client.post(path, body, authorization="Bearer s3cret"))[0] == 200


@pytest.mark.slow
async def test_a_refresh_drops_the_dead_and_keeps_the_table_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refreshed: list[None] = []
    refresh_once = registry.Registry.refresh

    async def counted(self: registry.Registry) -> None:
        refreshed.append(None)
        await refresh_once(self)

    monkeypatch.setattr(registry.Registry, "refresh", counted)
    monkeypatch.setattr(registry, "POLL_TIMEOUT_S", LIMIT_S)
    async with controlling() as client, FakeEndpoint("live") as live, FakeEndpoint("h") as hung:
        hung.mode = "hung"
        await client.register(live.url, "old-name")
        await client.register(hung.url, "hung")
        await client.register("http://localhost:1999", "dead")
        refresh = asyncio.create_task(client.post("/refresh_all_workers"))
        second = asyncio.create_task(client.post("/refresh_all_workers"))
        await until(lambda: hung.asked and len(refreshed) == 2)
        assert "dead" in await client.models()  # nothing is empty in between
        await hung.close()
        assert (await refresh)[0] == (await second)[0] == 200
        # Callers at the same time share a round.
        assert hung.asked.count("/worker_get_status") == 1
        assert await client.models() == ["live"]


@pytest.mark.slow
async def test_its_own_status_is_the_sum_of_its_workers() -> None:
    async with controlling() as outer, controlling() as inner, FakeEndpoint("a", "b") as endpoint:
        await inner.register(endpoint.url)
        status, reply = await inner.post("/worker_get_status")
        assert status == 200
        assert reply == {"model_names": ["a", "b"], "speed": 1.0, "queue_length": 0}
        body = {"worker_name": inner.url, "check_heart_beat": False}
        assert await outer.post("/register_worker", body) == (200, None)
        assert await outer.models() == ["a", "b"]


@pytest.mark.slow
async def test_a_silent_worker_is_dropped_after_the_expiry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with controlling(heart_beat_expiration=3600.0) as client:
        await client.register("http://localhost:21002")
        assert await client.models() == ["m"]
        monkeypatch.setattr(registry, "_now", lambda: time.monotonic() + 3601)
        await until(lambda: not client.controller.router.endpoints())
        assert await client.models() == []


@pytest.mark.slow
async def test_a_probed_endpoint_goes_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PROBE_EVERY_S", 0.05)
    async with controlling() as client, FakeEndpoint("x") as endpoint:
        body = {"worker_name": endpoint.url, "check_heart_beat": False}
        await client.post("/register_worker", body)
        router = client.controller.router
        await endpoint.close()
        await until(lambda: not router.models())
        assert await client.post("/get_worker_address", {"model": "x"}) == (200, {"address": ""})
        endpoint.models = ("x", "new")
        await endpoint.listen()
        await until(lambda: router.models() == ["new", "x"])


@pytest.mark.slow
async def test_a_worker_that_fell_silent_is_asked_and_ranks_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(registry, "SILENT_S", 0.0)
    async with controlling() as client, FakeEndpoint("m") as live:
        await client.register("http://localhost:1999")
        await client.register(live.url)
        router = client.controller.router
        await until(lambda: router.has_failed("http://localhost:1999"))
        reply = await client.post("/get_worker_address", {"model": "m"})
        assert reply[1]["address"] == live.url


async def read_event(stream: aiohttp.StreamReader) -> dict[str, Any]:
    while True:
        event = json.loads(await asyncio.wait_for(stream.readline(), LIMIT_S))
        if event["event"] != "ping":
            return event


@pytest.mark.slow
async def test_the_watch_stream_tells_everything_and_then_what_changes() -> None:
    async with controlling() as client:
        await client.register("http://localhost:21002")
        async with client.session.get(client.url + "/watch") as reply:
            first = await read_event(reply.content)
            assert first["event"] == "snapshot"
            assert first["controller_id"] == client.controller.registry.id
            assert [w["worker_name"] for w in first["workers"]] == ["http://localhost:21002"]
            await client.register("http://localhost:21003")
            new = await read_event(reply.content)
            assert (new["event"], new["worker"]["worker_name"]) == ("set", "http://localhost:21003")
            beat = {"worker_name": "http://localhost:21003", "queue_length": 7}
            await client.post("/receive_heart_beat", beat)
            busy = await read_event(reply.content)
            assert busy["worker"]["worker_status"]["queue_length"] == 7
            await client.post("/unregister_worker", beat)
            gone = await read_event(reply.content)
            assert gone == {"event": "remove", "worker_name": "http://localhost:21003"}


@pytest.mark.slow
async def test_dead_workers_slow_nobody_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "POLL_TIMEOUT_S", LIMIT_S)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(controlling())
        all_hung = [await stack.enter_async_context(FakeEndpoint("m")) for _ in range(10)]
        for hung in all_hung:
            hung.mode = "hung"
            await client.register(hung.url)
        refresh = asyncio.create_task(client.post("/refresh_all_workers"))
        await until(lambda: all(hung.asked for hung in all_hung))
        for _ in range(10):
            assert await client.models() == ["m"]
        assert not refresh.done()  # the round waits for the ten
        for hung in all_hung:
            await hung.close()
        assert await refresh == (200, None)
        assert await client.models() == []


@pytest.mark.slow
async def test_a_refresh_waits_for_nobody_longer_than_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "POLL_TIMEOUT_S", 0.3)
    async with controlling() as client, FakeEndpoint("m") as hung:
        hung.mode = "hung"
        await client.register(hung.url)
        assert await client.post("/refresh_all_workers") == (200, None)
        assert await client.models() == []


@pytest.mark.slow
async def test_the_proxy_passes_a_workers_bytes_or_one_error_chunk() -> None:
    async with controlling() as client, FakeEndpoint("m") as endpoint:
        missing = await _proxy(client, {"model": "m", "prompt": "x"})
        assert missing.count(b"\0") == 1
        assert json.loads(missing[:-1])["error_code"] == 50005
        await client.register(endpoint.url)
        endpoint.mode = "break_first"
        broken = await _proxy(client, {"model": "m", "prompt": "x"})
        assert json.loads(broken[:-1])["error_code"] == 50006
        endpoint.mode = "answer"
        passed = await _proxy(client, {"model": "m", "prompt": "x"})
        assert json.loads(passed)["object"] == "chat.completion"
        assert endpoint.paths[-1] == "/worker_generate_stream"
        assert client.controller.router.load(endpoint.url) == 0


async def _proxy(client: Client, body: dict[str, Any]) -> bytes:
    async with client.session.post(client.url + "/worker_generate_stream", json=body) as reply:
        assert reply.status == 200
        return await reply.read()


@pytest.mark.slow
async def test_leaving_the_proxy_closes_the_workers_connection() -> None:
    async with controlling() as client, FakeEndpoint("m") as endpoint:
        await client.register(endpoint.url)
        endpoint.mode = "drip"
        body = {"model": "m", "stream": True}
        async with client.session.post(client.url + "/worker_generate_stream", json=body) as reply:
            await reply.content.readany()
        await until(lambda: endpoint.n_gone == 1)
        await until(lambda: client.controller.router.load(endpoint.url) == 0)


@pytest.mark.slow
async def test_how_it_is_can_be_asked() -> None:
    async with controlling() as client:
        await client.register("http://localhost:21002")
        assert await client.get("/test_connection") == (200, '"success"')
        health = json.loads((await client.get("/health"))[1])
        assert (health["status"], health["endpoints"], health["models"]) == ("ok", 1, 1)
        assert "fastchat_controller_endpoints 1\n" in (await client.get("/metrics"))[1]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/health", 405)])
async def test_unknown_routes_and_methods_answer_in_json(path: str, status: int) -> None:
    async with controlling() as client:
        got, reply = await client.post(path, {})
        assert got == status
        assert reply["error"]["message"]


@pytest.mark.parametrize("fields", [{"heart_beat_expiration": 0.0}, {"worker_api_timeout": -1.0}])
def test_impossible_times_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        ControllerSettings(**fields)
