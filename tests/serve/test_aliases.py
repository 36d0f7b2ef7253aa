"""Other names of models at the gateway: asked on every route, and no way around a key's models."""

import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fake_endpoint import FakeEndpoint
from live import serving, until

from fastchat.errors import UsageError
from fastchat.serve.openai_api_server import Gateway, GatewaySettings
from fastchat.settings import parse
from fastchat.store.database import Database
from fastchat.store.keys import KeyStore

ALIASES = ("gpt-4o-mini=m", "text-embedding-3-small=m", "n=m")
SAID = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": SAID, "seed": 3},
    "/api/v1/chat/completions": {"messages": SAID},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/v1/engines/gpt-4o-mini/embeddings": {"model": None, "input": "hi"},
    "/tokenize": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": SAID, "max_tokens": 3},
    "/v1/rerank": {"query": "hi", "documents": ["a"]},
}


@pytest.mark.slow
async def test_an_alias_is_asked_on_every_route_and_the_endpoint_hears_the_model() -> None:
    async with FakeEndpoint("m", "n") as endpoint:
        gateway = Gateway(GatewaySettings(endpoint=(endpoint.url,), model_alias=ALIASES))
        async with serving(gateway) as url, aiohttp.ClientSession() as session:
            await until(lambda: gateway.roster.router.models())
            for path, body in BODIES.items():
                sent = {"model": "gpt-4o-mini"} | body
                sent = {name: value for name, value in sent.items() if value is not None}
                before = len(endpoint.bodies)
                async with session.post(url + path, json=sent) as reply:
                    assert reply.status == 200 or "embedding" in await reply.text(), path
                asked = json.loads(endpoint.bodies[before])
                assert asked["model"] == "m", path
                own = {"model": "m"} | body
                if path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
                    assert asked == own  # nothing else has changed
            check = {"prompts": [{"model": "gpt-4o-mini", "prompt": "a b", "max_tokens": 1}]}
            async with session.post(f"{url}/api/v1/token_check", json=check) as reply:
                assert (await reply.json())["prompts"][0]["tokenCount"] == 2
            # A name that an endpoint serves itself means that model.
            async with session.post(
                f"{url}/v1/chat/completions", json={"model": "n", "messages": SAID}
            ) as reply:
                assert reply.status == 200
            assert json.loads(endpoint.bodies[-1])["model"] == "n"
            async with session.get(f"{url}/v1/models") as reply:
                listed = [(card["id"], card["root"]) for card in (await reply.json())["data"]]
            assert listed == [
                ("gpt-4o-mini", "m"),
                ("m", "m"),
                ("n", "n"),
                ("text-embedding-3-small", "m"),
            ]
            async with session.get(f"{url}/v1/models/gpt-4o-mini") as reply:
                card = await reply.json()
                assert (card["id"], card["root"], card["context_length"]) == (
                    "gpt-4o-mini",
                    "m",
                    64,
                )


@pytest.mark.slow
async def test_an_alias_opens_nothing_that_a_key_may_not_ask(tmp_path: Path) -> None:
    url = str(tmp_path / "keys.db")
    database = Database(url)
    keys = KeyStore(database)
    _, of_alias = keys.create("a", now=time.time(), models=("gpt-*",))
    _, of_model = keys.create("m", now=time.time(), models=("m",))
    async with FakeEndpoint("m") as endpoint:
        settings = GatewaySettings(
            endpoint=(endpoint.url,), model_alias=ALIASES[:1], database_url=url
        )
        gateway = Gateway(settings)
        async with serving(gateway) as at, aiohttp.ClientSession() as session:
            await until(lambda: gateway.roster.router.models())
            body = {"model": "gpt-4o-mini", "messages": SAID}
            for key, status, names in ((of_alias, 403, []), (of_model, 200, ["gpt-4o-mini", "m"])):
                headers = {"x-api-key": key}
                async with session.post(
                    f"{at}/v1/chat/completions", json=body, headers=headers
                ) as reply:
                    assert reply.status == status
                async with session.get(f"{at}/v1/models", headers=headers) as reply:
                    assert [card["id"] for card in (await reply.json())["data"]] == names
    database.close()


@pytest.mark.parametrize(
    "flags", [["a"], ["=m"], ["a="], ["a=a"], ["a=m", "a=n"], ["a=b", "b=m"], ["a\nb=m"]]
)
def test_what_is_no_alias_is_refused_at_the_start(flags: list[str]) -> None:
    with pytest.raises(UsageError, match="--model-alias"):
        parse(GatewaySettings, [word for flag in flags for word in ("--model-alias", flag)])
