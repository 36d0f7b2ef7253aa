"""What the gateway makes of endpoints that do not let it in."""

import json

import aiohttp
import openai
import pytest
from fake_endpoint import FakeEndpoint
from live import serving, until

from fastchat.serve.openai_api_server import Gateway, GatewaySettings

ROUTES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/tokenize": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3},
    "/v1/rerank": {"query": "hi", "documents": ["a"]},
    "/v1/score": {"text_1": "hi", "text_2": "a"},
}


@pytest.mark.slow
async def test_a_client_with_the_right_key_is_not_told_that_it_is_wrong(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with FakeEndpoint("m") as endpoint:
        endpoint.mode = "locked"
        settings = GatewaySettings(endpoint=(endpoint.url,), api_keys=("k1",))
        gateway = Gateway(settings)
        async with serving(gateway) as url, aiohttp.ClientSession() as session:
            await until(lambda: gateway.roster.router.models())
            for path, body in ROUTES.items():
                headers = {"x-api-key": "k1"}
                async with session.post(
                    url + path, json={"model": "m"} | body, headers=headers
                ) as r:
                    text = await r.text()
                assert (r.status, "refuses this server" in text) == (502, True), path
                assert "its own key" not in text and endpoint.url not in text
            check = {"prompts": [{"model": "m", "prompt": "x", "max_tokens": 1}]}
            async with session.post(
                f"{url}/api/v1/token_check", json=check, headers={"x-api-key": "k1"}
            ) as r:
                assert r.status == 502 and json.loads(await r.read())["code"] == 50006
            client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k1", max_retries=0)
            async with client:
                with pytest.raises(openai.InternalServerError):
                    await client.chat.completions.create(
                        model="m", messages=[{"role": "user", "content": "hi"}], stream=True
                    )
    assert "endpoint refuses this server" in caplog.text and "--worker-token" in caplog.text


async def test_another_endpoint_is_asked_in_its_place() -> None:
    async with FakeEndpoint("m") as one, FakeEndpoint("m") as two:
        gateway = Gateway(GatewaySettings(endpoint=(one.url, two.url)))
        async with serving(gateway) as url, aiohttp.ClientSession() as session:
            await until(lambda: len(gateway.roster.router.serving("m")) == 2)
            body = {"model": "m"} | ROUTES["/v1/chat/completions"]
            for locked, free in ((one, two), (two, one)):
                locked.mode, free.mode = "locked", "answer"
                for _ in range(2):
                    async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                        assert reply.status == 200
        assert len(one.bodies) + len(two.bodies) > 4  # some were refused, and asked again
