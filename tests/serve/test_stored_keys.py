"""A gateway with the keys of a store, in front of fake endpoints."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from fake_endpoint import FakeEndpoint
from live import LIMIT_S, serving, until

from fastchat.errors import AuthenticationError
from fastchat.serve.access import CALLER, KEY_ID, given_id
from fastchat.serve.openai_api_server import Gateway, GatewaySettings, create_app, main
from fastchat.store.database import Database
from fastchat.store.keys import ApiKey, KeyStore, Limits
from fastchat.store.usage import UsageStore

pytestmark = pytest.mark.usefixtures("one_day")

CHAT = "/v1/chat/completions"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


class Store:
    """The operator's side of a database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(url)
        self.keys = KeyStore(self.database)
        self.usage = UsageStore(self.database)

    def create(self, *models: str, **limits: int) -> tuple[ApiKey, str]:
        return self.keys.create("k", now=time.time(), models=models, limits=Limits(**limits))

    def used(self, key: ApiKey) -> dict[str, tuple[int, int, int, int]]:
        """Requests, prompt tokens, completion tokens, estimated; by model."""
        return {
            place.model: (u.requests, u.prompt_tokens, u.completion_tokens, u.estimated_requests)
            for place, u in self.usage.since(0, key_id=key.id)
        }


@pytest.fixture
def store(tmp_path: Path) -> Any:
    result = Store(str(tmp_path / "keys.db"))
    yield result
    result.database.close()


class Client:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def ask(
        self, key: str | None, body: Any = HELLO, path: str = CHAT
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, value or raw text of a stream, and headers."""
        headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        data = json.dumps(body) if body is not None else None
        method = "POST" if body is not None else "GET"
        async with self._session.request(
            method, self.url + path, headers=headers, data=data
        ) as reply:
            raw = await reply.read()
            is_json = reply.headers["content-type"].startswith("application/json")
            return (
                reply.status,
                json.loads(raw) if is_json else raw,
                {n.lower(): v for n, v in reply.headers.items()},
            )


@contextlib.asynccontextmanager
async def gateway(store: Store, *endpoints: FakeEndpoint, **fields: Any) -> AsyncIterator[Client]:
    urls = tuple(endpoint.url for endpoint in endpoints)
    settings = GatewaySettings(host="127.0.0.1", endpoint=urls, database_url=store.url, **fields)
    async with serving(create_app(settings)) as url, aiohttp.ClientSession() as session:
        client = Client(url, session)
        async with asyncio.timeout(LIMIT_S):
            while (await client.ask(None, None, "/health"))[1]["endpoints"] < len(endpoints):
                await asyncio.sleep(0.01)
        yield client


@pytest.mark.slow
async def test_a_stored_key_opens_every_way_and_no_other_does(store: Store) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(store, endpoint) as client:
        _, text = store.create()
        for headers in (
            {"authorization": f"Bearer {text}"},
            {"x-api-key": text},
            {"api-key": text, "authorization": f"Bearer {text}"},
        ):
            async with client._session.post(client.url + CHAT, json=HELLO, headers=headers) as r:
                assert r.status == 200
        for wrong in (None, "", "fc-" + "x" * 43, text + "x", text[:-1], text.upper(), "x" * 5000):
            for path in (CHAT, "/v1/models", "/metrics", "/v1/responses", "/x"):
                status, reply, _ = await client.ask(wrong, path=path)
                assert (status, reply["error"]["code"]) == (401, "invalid_api_key")
        both = {"authorization": f"Bearer {text}", "x-api-key": store.create()[1]}
        async with client._session.post(client.url + CHAT, json=HELLO, headers=both) as r:
            assert r.status == 401
        assert len(endpoint.bodies) == 3


@pytest.mark.slow
async def test_given_keys_stand_beside_stored_ones(store: Store) -> None:
    async with (
        FakeEndpoint("m") as endpoint,
        gateway(store, endpoint, api_keys=("given",)) as client,
    ):
        _, text = store.create(requests_per_minute=1)
        assert [(await client.ask("given"))[0] for _ in range(3)] == [200] * 3
        assert [(await client.ask(text))[0] for _ in range(2)] == [200, 429]
        assert (await client.ask("other"))[0] == 401


@pytest.mark.slow
async def test_a_key_sees_and_asks_its_models_only(store: Store) -> None:
    async with FakeEndpoint("m", "n", "m:lora") as endpoint, gateway(store, endpoint) as client:
        _, text = store.create("m")
        _, listed, _ = await client.ask(text, None, "/v1/models")
        assert [card["id"] for card in listed["data"]] == ["m"]
        assert (await client.ask(text, None, "/v1/models/m"))[0] == 200
        for model in ("n", "m:lora", "M", "m ", "none"):
            for path in (CHAT, "/v1/completions", "/v1/embeddings", "/tokenize"):
                body = HELLO | {"model": model, "prompt": "x", "input": "x"}
                status, reply, _ = await client.ask(text, body, path)
                assert (status, reply["error"]["param"]) == (403, "model")
            status, _, _ = await client.ask(text, None, f"/v1/models/{model}")
            assert status == 403
            check = {"prompts": [{"model": model, "prompt": "x", "max_tokens": 1}]}
            assert (await client.ask(text, check, "/api/v1/token_check"))[0] == 403
            message = {"model": model, "max_tokens": 5, "messages": HELLO["messages"]}
            assert (await client.ask(text, message, "/v1/messages"))[0] == 403
        assert endpoint.bodies == []
        status, counted, _ = await client.ask(text, {"prompt": "a b"}, "/tokenize")
        assert (status, counted["count"]) == (200, 2)  # the only model it may ask


@pytest.mark.slow
async def test_use_is_counted_exactly_plain_streamed_and_through_doors(store: Store) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(store, endpoint) as client:
        endpoint.usage = USAGE
        key, text = store.create()
        assert (await client.ask(text))[1]["usage"] == USAGE
        _, raw, _ = await client.ask(text, HELLO | {"stream": True})
        assert b'"usage": {' not in raw and raw.endswith(b"data: [DONE]\n\n")
        assert raw.count(b"data: {") == 5
        asked = {"stream": True, "stream_options": {"include_usage": True}}
        _, raw, _ = await client.ask(text, HELLO | asked)
        assert raw.count(b'"usage": {') == 1
        message = {"model": "m", "max_tokens": 5, "messages": HELLO["messages"]}
        assert (await client.ask(text, message, "/v1/messages"))[0] == 200
        await until(lambda: store.used(key) == {"m": (4, 44, 28, 0)})


@pytest.mark.slow
async def test_an_endpoint_that_tells_nothing_is_estimated(store: Store) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(store, endpoint) as client:
        key, text = store.create()
        await client.ask(text)
        await client.ask(text, HELLO | {"stream": True})
        await until(lambda: store.used(key).get("m", (0,))[0] == 2)
        requests, prompt, completion, estimated = store.used(key)["m"]
        assert (requests, estimated) == (2, 2)
        assert prompt > 20 and completion >= 5


@pytest.mark.slow
async def test_a_stream_that_the_client_cuts_is_charged(store: Store) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(store, endpoint) as client:
        endpoint.mode = "drip"
        key, text = store.create()
        headers = {"authorization": f"Bearer {text}"}
        body = HELLO | {"stream": True}
        async with client._session.post(client.url + CHAT, json=body, headers=headers) as reply:
            for _ in range(3):
                await reply.content.readuntil(b"\n\n")
        await until(lambda: store.used(key))
        requests, prompt, completion, estimated = store.used(key)["m"]
        assert (requests, estimated) == (1, 1)
        assert prompt > 0 and completion >= 3


@pytest.mark.slow
async def test_refused_requests_cost_no_tokens(store: Store) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(store, endpoint) as client:
        endpoint.mode = "busy"
        key, text = store.create(tokens_per_minute=1000, requests_per_minute=10)
        status, _, headers = await client.ask(text)
        assert status == 429
        assert headers["x-ratelimit-remaining-tokens"] == "984"  # as the reply's head was sent
        _, _, headers = await client.ask(text, None, "/v1/models")
        assert headers["x-ratelimit-remaining-tokens"] == "1000"
        assert headers["x-ratelimit-remaining-requests"] == "9"
        assert store.used(key) == {}


@pytest.mark.slow
async def test_limits_are_told_on_every_reply_and_held(store: Store) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(store, endpoint) as client:
        endpoint.usage = USAGE
        _, text = store.create(requests_per_minute=2, tokens_per_minute=1000)
        for left in (1, 0):
            status, _, headers = await client.ask(text)
            assert status == 200
            assert headers["x-ratelimit-limit-requests"] == "2"
            assert headers["x-ratelimit-remaining-requests"] == str(left)
            assert headers["x-ratelimit-limit-tokens"] == "1000"
        for body, path in ((HELLO, CHAT), (HELLO | {"stream": True}, CHAT)):
            status, reply, headers = await client.ask(text, body, path)
            assert (status, reply["error"]["code"]) == (429, "rate_limit_exceeded")
            assert 1 <= int(headers["retry-after"]) <= 61
            assert headers["x-ratelimit-remaining-requests"] == "0"
        status, _, headers = await client.ask(text, None, "/v1/models")
        assert status == 200
        assert headers["x-ratelimit-remaining-tokens"] == str(1000 - 2 * 18)
        assert len(endpoint.bodies) == 2
        official = openai.AsyncOpenAI(base_url=client.url + "/v1", api_key=text, max_retries=0)
        async with official:
            with pytest.raises(openai.RateLimitError):
                await official.chat.completions.create(**HELLO)  # type: ignore[call-overload]


@pytest.mark.slow
async def test_a_door_is_one_request_and_keeps_the_limits(store: Store) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(store, endpoint) as client:
        endpoint.usage = USAGE
        key, text = store.create(requests_per_minute=1)
        message = {"model": "m", "max_tokens": 5, "messages": HELLO["messages"]}
        status, _, headers = await client.ask(text, message, "/v1/messages")
        assert (status, headers["x-ratelimit-remaining-requests"]) == (200, "0")
        status, reply, headers = await client.ask(text, message, "/v1/messages")
        assert (status, reply["error"]["type"]) == (429, "rate_limit_error")
        await until(lambda: store.used(key) == {"m": (1, 11, 7, 0)})


@pytest.mark.slow
async def test_each_line_of_a_batch_is_charged_to_its_key(store: Store) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(store, endpoint) as client:
        endpoint.usage = USAGE
        key, text = store.create("m")
        lines = [
            {"custom_id": str(i), "method": "POST", "url": CHAT, "body": HELLO} for i in range(3)
        ]
        data = "\n".join(json.dumps(line) for line in lines).encode()
        async with openai.AsyncOpenAI(base_url=client.url + "/v1", api_key=text) as official:
            file = await official.files.create(file=("a.jsonl", data), purpose="batch")
            batch = await official.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
            )
            async with asyncio.timeout(LIMIT_S):
                while (await official.batches.retrieve(batch.id)).status != "completed":
                    await asyncio.sleep(0.05)
        await until(lambda: store.used(key) == {"m": (3, 33, 21, 0)})
        _, other = store.create("m")
        status, _, _ = await client.ask(other, None, f"/v1/batches/{batch.id}")
        assert status == 404


@pytest.mark.slow
async def test_a_revoked_key_stops_and_its_streams_end(store: Store) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(store, endpoint) as client:
        endpoint.mode = "drip"
        key, text = store.create()
        headers = {"authorization": f"Bearer {text}"}
        body = HELLO | {"stream": True}
        async with client._session.post(client.url + CHAT, json=body, headers=headers) as reply:
            await reply.content.readuntil(b"\n\n")
            store.keys.change(dataclasses.replace(key, revoked_at=time.time()))
            async with asyncio.timeout(LIMIT_S):
                rest = await reply.content.read()
        assert b"event: error" in rest and b"invalid_api_key" in rest
        assert (await client.ask(text))[0] == 401


@pytest.mark.slow
async def test_an_expired_key_stops_and_a_new_limit_holds(store: Store) -> None:
    async with FakeEndpoint("m") as endpoint, gateway(store, endpoint) as client:
        key, text = store.create()
        assert (await client.ask(text))[0] == 200
        store.keys.change(dataclasses.replace(key, limits=Limits(requests_per_day=1)))
        async with asyncio.timeout(LIMIT_S):
            while (await client.ask(text, None, "/v1/models"))[2].get(
                "x-ratelimit-remaining-requests"
            ) != "0":
                await asyncio.sleep(0.02)
        status, reply, _ = await client.ask(text)
        assert (status, reply["error"]["code"]) == (429, "insufficient_quota")
        store.keys.change(dataclasses.replace(key, expires_at=time.time()))
        async with asyncio.timeout(LIMIT_S):
            while (await client.ask(text, None, "/v1/models"))[0] != 401:
                await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_two_gateways_share_a_days_quota(database_url: str) -> None:
    store = Store(database_url)
    async with (
        FakeEndpoint("m") as endpoint,
        gateway(store, endpoint) as one,
        gateway(store, endpoint) as two,
    ):
        endpoint.usage = USAGE
        key, text = store.create(requests_per_day=3, tokens_per_day=1000)
        assert (await one.ask(text))[0] == 200
        assert (await two.ask(text))[0] == 200
        await until(lambda: store.used(key) == {"m": (2, 22, 14, 0)})
        async with asyncio.timeout(LIMIT_S):
            for client in (one, two):
                while (await client.ask(text, None, "/v1/models"))[2][
                    "x-ratelimit-remaining-requests"
                ] != "1":
                    await asyncio.sleep(0.05)
        assert (await one.ask(text))[0] == 200
        assert (await one.ask(text))[0] == 429
        async with asyncio.timeout(LIMIT_S):
            while (await two.ask(text))[0] != 429:
                pytest.fail("a request beyond the quota was let through") if len(
                    endpoint.bodies
                ) > 4 else await asyncio.sleep(0.05)
    store.database.close()


@pytest.mark.slow
async def test_a_store_that_is_gone_keeps_known_keys_working(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastchat.errors import StoreError
    from fastchat.store.database import Database

    async with FakeEndpoint("m") as endpoint, gateway(store, endpoint) as client:
        endpoint.usage = USAGE
        key, text = store.create()
        _, late = store.create()
        assert (await client.ask(text))[0] == 200
        await until(lambda: store.used(key) == {"m": (1, 11, 7, 0)})
        with monkeypatch.context() as patch:

            def gone(*_: object) -> None:
                raise StoreError("The store is gone.")

            patch.setattr(Database, "read", gone)
            patch.setattr(Database, "write", gone)
            assert (await client.ask(text))[0] == 200
            assert (await client.ask(late))[0] == 503
        await until(lambda: store.used(key) == {"m": (2, 22, 14, 0)})
        assert (await client.ask(late))[0] == 200


@pytest.mark.parametrize(
    ("url", "status"),
    [("mysql://u:secret@h/d", 2), ("postgresql://u:secret@127.0.0.1:1/d", 1)],
)
def test_a_database_that_cannot_be_used_is_told_at_the_start(
    url: str, status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGDIR", "")
    assert main(["--database-url", url]) == status
    said = capsys.readouterr().err
    assert "secret" not in said and "Traceback" not in said


@pytest.mark.slow
async def test_work_for_a_key_goes_on_by_its_id(store: Store) -> None:
    async with (
        FakeEndpoint("m") as endpoint,
        gateway(store, endpoint) as client,
        serving_gateway(store, endpoint) as inner,
    ):
        key, text = store.create("m", requests_per_day=2)
        assert (await client.ask(text))[0] == 200
        scope = {KEY_ID: key.id, CALLER: None}
        caller = await inner.access.caller_of(scope)
        assert caller is not None and caller.key_id == key.id
        caller.charge("m", prompt_tokens=3, completion_tokens=4)
        await until(lambda: store.used(key).get("m", (0,))[0] == 2)
        assert await inner.access.caller_of({KEY_ID: given_id(b"x"), CALLER: None}) is None
        store.keys.change(dataclasses.replace(key, revoked_at=time.time()))
        async with asyncio.timeout(LIMIT_S):
            with pytest.raises(AuthenticationError):
                while await inner.access.caller_of(scope):
                    await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def serving_gateway(store: Store, endpoint: FakeEndpoint) -> AsyncIterator[Gateway]:
    result = Gateway(GatewaySettings(endpoint=(endpoint.url,), database_url=store.url))
    await result.start()
    yield result
    await result.stop()


@pytest.mark.slow
async def test_nothing_of_a_key_is_logged(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with FakeEndpoint("m") as endpoint, gateway(store, endpoint) as client:
            key, text = store.create("m", requests_per_minute=1)
            for _ in range(2):
                await client.ask(text)
            await client.ask(text, HELLO | {"model": "n"})
            await client.ask(text + "x")
            metrics = (await client.ask(text, None, "/metrics"))[1]
    secret = text.removeprefix("fc-")
    assert secret[:8] not in caplog.text
    assert secret[:8].encode() not in metrics
    assert secret[:8] not in "".join(endpoint.heads)
    assert key.id not in caplog.text
