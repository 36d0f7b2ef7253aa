"""Workers that answer only who knows the token, and a platform that knows it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from live import LIMIT_S, serving, until

from fastchat.engine.echo import EchoEngine, EchoOptions
from fastchat.serve.controller import ControllerSettings
from fastchat.serve.controller import create_app as controller_app
from fastchat.serve.endpoints import Endpoint, token_for
from fastchat.serve.model_worker import registration_body
from fastchat.serve.openai_api_server import GatewaySettings, create_app
from fastchat.serve.published_worker import published_routes
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings

TOKEN = "s3cret-of-the-cluster"
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}


@asynccontextmanager
async def guarded() -> AsyncIterator[tuple[str, Worker]]:
    settings = WorkerSettings(worker_token=TOKEN)
    worker = Worker(
        {"echo": EchoEngine(EchoOptions())},
        settings,
        extra_routes=published_routes,
    )
    async with serving(worker.app) as url:
        yield url, worker
    await worker.stop()


async def post(url: str, body: Any, **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=body, headers=headers) as reply,
    ):
        return reply.status, await reply.text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/tokenize",
        "/v1/models",
        "/metrics",
        "/worker_generate_stream",
        "/worker_get_status",
        "/no_such_route",
    ],
)
async def test_nothing_but_the_health_is_open(path: str) -> None:
    async with guarded() as (url, _):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": ""}):
            status, text = await post(url + path, CHAT, **headers)
            assert status == 401
            assert "FASTCHAT_WORKER_TOKEN" in text
            assert TOKEN not in text
        async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as reply:
            assert reply.status == 200
        status, _ = await post(f"{url}/v1/chat/completions", CHAT, authorization=f"Bearer {TOKEN}")
        assert status == 200


@pytest.mark.slow
@pytest.mark.parametrize("token", [TOKEN, None])
async def test_gateway_and_controller_send_it(token: str | None) -> None:
    controller = controller_app(ControllerSettings(host="127.0.0.1", worker_token=TOKEN))
    async with guarded() as (worker_url, worker), serving(controller) as controller_url:
        status, _ = await post(
            f"{controller_url}/register_worker",
            registration_body(worker, worker_url),
            authorization=f"Bearer {TOKEN}",
        )
        assert status == 200
        auth = {"authorization": f"Bearer {TOKEN}"}
        status, _ = await post(f"{controller_url}/refresh_all_workers", {}, **auth)
        assert status == 200
        proxied = {"model": "echo", "prompt": "hello"}
        status, text = await post(f"{controller_url}/worker_generate_stream", proxied)
        assert status == 200
        assert "hello" in text
        settings = GatewaySettings(
            host="127.0.0.1", controller_address=controller_url, worker_token=token
        )
        async with serving(create_app(settings)) as gateway:
            await _until_listed(gateway)
            status, text = await post(f"{gateway}/v1/chat/completions", CHAT)
            assert status == (200 if token else 502), text
            if token is None:  # the client did nothing wrong, and what is wrong is not its concern
                assert "refuses this server" in text and "TOKEN" not in text
            check = {"prompts": [{"model": "echo", "prompt": "x", "max_tokens": 1}]}
            status, text = await post(f"{gateway}/api/v1/token_check", check)
            assert status == (200 if token else 502)
            assert "TOKEN" not in text


async def _until_listed(gateway: str) -> None:
    async with aiohttp.ClientSession() as session:
        async with asyncio.timeout(LIMIT_S):
            while True:
                async with session.get(f"{gateway}/v1/models") as reply:
                    if (await reply.json())["data"]:
                        return
                await until(lambda: True)


def test_servers_of_other_kinds_are_not_told_the_token() -> None:
    for check, expected in (("heartbeat", TOKEN), ("probe", None)):
        endpoint = Endpoint(name="http://a:1", model_names=("m",), check=check)  # type: ignore[arg-type]
        assert token_for(endpoint, TOKEN) == expected
