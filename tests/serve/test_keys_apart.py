"""Nothing of one key's data is visible to another: by id, guess, list, cursor or count."""

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from fake_endpoint import FakeEndpoint
from live import LIMIT_S, serving, until

from fastchat.serve.openai_api_server import Gateway, GatewaySettings
from fastchat.store.database import Database
from fastchat.store.keys import KeyStore, Limits
from fastchat.store.usage import UsageStore

pytestmark = pytest.mark.usefixtures("one_day")

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
GIVEN = "operators-own"
ROUTES = (
    ("GET", "/v1/responses/{response}", None),
    ("GET", "/v1/responses/{response}/input_items", None),
    ("POST", "/v1/responses/{response}/cancel", {}),
    ("DELETE", "/v1/responses/{response}", None),
    ("GET", "/v1/responses/{background}", None),
    ("POST", "/v1/responses/{background}/cancel", {}),
    ("POST", "/v1/responses", {"model": "m", "input": "x", "previous_response_id": "{response}"}),
    (
        "POST",
        "/v1/responses/input_tokens",
        {"model": "m", "input": "x", "previous_response_id": "{response}"},
    ),
    ("GET", "/v1/files/{file}", None),
    ("GET", "/v1/files/{file}/content", None),
    ("GET", "/v1/files/{output}", None),
    ("GET", "/v1/files/{output}/content", None),
    ("DELETE", "/v1/files/{output}", None),
    ("DELETE", "/v1/files/{file}", None),
    ("GET", "/v1/files?after={file}", None),
    ("GET", "/v1/batches/{batch}", None),
    ("POST", "/v1/batches/{batch}/cancel", {}),
    ("GET", "/v1/batches?after={batch}", None),
    (
        "POST",
        "/v1/batches",
        {
            "input_file_id": "{file}",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    ),
)
"""Every way to name an object by its id."""


class Asker:
    """Asks a gateway with one key."""

    def __init__(self, url: str, key: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self.key = key
        self._session = session

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        async with self._session.request(
            method, self._url + path, json=body, headers={"authorization": f"Bearer {self.key}"}
        ) as reply:
            return reply.status, await reply.text()

    async def about(self, route: tuple[str, str, Any], ids: dict[str, str]) -> tuple[int, str]:
        """Status and text of a reply, with the ids taken out of it."""
        method, path, body = route
        for name, value in ids.items():
            path = path.replace("{" + name + "}", value)
        filled = {n: ids.get(str(v).strip("{}"), v) for n, v in (body or {}).items()}
        status, text = await self.ask(method, path, filled if body is not None else None)
        for value in ids.values():
            text = text.replace(value, "ID")
        return status, text


@asynccontextmanager
async def site(database_url: str) -> AsyncIterator[tuple[str, KeyStore, FakeEndpoint]]:
    database = Database(database_url)
    keys = KeyStore(database)
    async with FakeEndpoint("m", "n") as endpoint:
        endpoint.usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        settings = GatewaySettings(
            endpoint=(endpoint.url,), database_url=database_url, api_keys=(GIVEN,)
        )
        gateway = Gateway(settings)
        async with serving(gateway) as url:
            await until(lambda: gateway.roster.router.models())
            yield url, keys, endpoint
    database.close()


async def made_by(url: str, key: str, endpoint: FakeEndpoint) -> dict[str, str]:
    """The ids of one object of each kind, made by this key."""
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        response = await client.responses.create(model="m", input="mine alone")
        file = await client.files.create(
            file=("a.jsonl", json.dumps(line).encode()), purpose="batch"
        )
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        async with asyncio.timeout(LIMIT_S):
            while (batch := await client.batches.retrieve(batch.id)).status != "completed":
                await asyncio.sleep(0.02)
        endpoint.mode = "silent"  # the one in the background stays under way
        background = await client.responses.create(model="m", input="later", background=True)
        await until(lambda: b"later" in endpoint.bodies[-1])
    assert batch.output_file_id is not None
    return {
        "response": response.id,
        "background": background.id,
        "file": file.id,
        "output": batch.output_file_id,
        "batch": batch.id,
    }


@pytest.mark.slow
async def test_the_objects_of_another_key_are_as_if_they_were_not(database_url: str) -> None:
    async with site(database_url) as (url, keys, endpoint), aiohttp.ClientSession() as session:
        mine, other = (keys.create(name, now=time.time())[1] for name in ("same", "same"))
        ids = await made_by(url, mine, endpoint)
        owner = Asker(url, mine, session)
        before = [await owner.about(route, ids) for route in ROUTES if route[0] == "GET"]
        assert {status for status, _ in before} == {200}
        n_asked = len(endpoint.bodies)
        # Ids of the same form that nobody has: the replies must not differ in anything.
        nobodys = {name: value[:-6] + "0" * 6 for name, value in ids.items()}
        for key in (other, GIVEN):
            stranger = Asker(url, key, session)
            for route in ROUTES:
                seen = await stranger.about(route, ids)
                assert seen == await stranger.about(route, nobodys), route
                assert seen[0] in (400, 404), (route, seen)
            for path in ("/v1/files", "/v1/batches", "/v1/files?purpose=batch_output"):
                assert json.loads((await stranger.ask("GET", path))[1])["data"] == []
        assert len(endpoint.bodies) == n_asked  # no model was asked with what is another's
        after = [await owner.about(route, ids) for route in ROUTES if route[0] == "GET"]
        assert after == before  # nothing was deleted, cancelled or changed


async def test_ids_cannot_be_guessed(database_url: str) -> None:
    async with site(database_url) as (url, keys, endpoint):
        _, key = keys.create("k", now=time.time())
        ids = await made_by(url, key, endpoint)
        for value in ids.values():
            random_part = value.replace("-", "_").split("_", 1)[1]
            assert len(random_part) * 4 >= 128 and int(random_part, 16)  # hexadecimal digits
        endpoint.mode = "answer"
        again = await made_by(url, key, endpoint)
        assert not {*ids.values()} & {*again.values()}


@pytest.mark.slow
async def test_limits_use_and_models_are_each_keys_own(database_url: str) -> None:
    async with site(database_url) as (url, keys, _), aiohttp.ClientSession() as session:
        few = Limits(requests_per_minute=2, tokens_per_day=100)
        one, text_one = keys.create("one", now=time.time(), models=("m",), limits=few)
        two, text_two = keys.create("two", now=time.time(), models=("n",), limits=few)
        first, second = (Asker(url, text, session) for text in (text_one, text_two))
        for _ in range(2):
            assert (await first.ask("POST", "/v1/chat/completions", CHAT))[0] == 200
        assert (await first.ask("POST", "/v1/chat/completions", CHAT))[0] == 429
        other = CHAT | {"model": "n"}
        assert (await second.ask("POST", "/v1/chat/completions", other))[0] == 200
        # A model of another key's, and one that is nowhere, are refused alike.
        refused = [
            await second.ask("POST", "/v1/chat/completions", CHAT | {"model": m}) for m in "mx"
        ]
        assert refused[0] == refused[1] and refused[0][0] == 403
        listed = json.loads((await second.ask("GET", "/v1/models"))[1])["data"]
        assert [card["id"] for card in listed] == ["n"]
        async with session.get(
            f"{url}/v1/models", headers={"authorization": f"Bearer {text_two}"}
        ) as reply:
            assert reply.headers["x-ratelimit-remaining-requests"] == "1"
            assert reply.headers["x-ratelimit-remaining-tokens"] == "95"
        metrics = (await second.ask("GET", "/metrics"))[1]
        for hidden in (one.id, one.name, text_one[3:12], 'model="'):
            assert hidden not in metrics
        database = Database(database_url)
        usage = UsageStore(database)
        await until(lambda: len(usage.since(0)) == 2)
        used = {place.key_id: (place.model, u.requests) for place, u in usage.since(0)}
        assert used == {one.id: ("m", 2), two.id: ("n", 1)}
        database.close()


@pytest.mark.slow
async def test_a_new_key_of_an_old_name_inherits_nothing(database_url: str) -> None:
    async with site(database_url) as (url, keys, endpoint), aiohttp.ClientSession() as session:
        old, text = keys.create("team", now=time.time())
        ids = await made_by(url, text, endpoint)
        keys.change(dataclasses.replace(old, revoked_at=time.time()))
        _, fresh = keys.create("team", now=time.time())
        heir = Asker(url, fresh, session)
        for route in ROUTES:
            assert (await heir.about(route, ids))[0] in (400, 404)
        async with asyncio.timeout(LIMIT_S):
            while (await Asker(url, text, session).ask("GET", "/v1/files"))[0] != 401:
                await asyncio.sleep(0.05)
