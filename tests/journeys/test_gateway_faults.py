"""What clients see while workers and controllers are killed, stopped and started again."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from live import LIMIT_S
from real_processes import free_port, wait_until_answers

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("gateway-faults")]

HOST = ["--host", "127.0.0.1"]


class Cluster:
    """A controller, two workers for the model `m` and a gateway, each to be killed at will."""

    def __init__(self, log_path: Path) -> None:
        self.log_path = log_path
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        names = ("controller", "a", "b", "gateway")
        self.ports = {name: free_port() for name in names}
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in self.ports.items()}

    def start(self, name: str) -> None:
        """Starts one, unless it runs."""
        if (old := self.processes.get(name)) is not None and old.poll() is None:
            return
        place = [*HOST, "--port", str(self.ports[name])]
        controller = ["--controller", self.urls["controller"]]
        model = ["--model-path", "echo:delay_ms=30", "--model-names", "m"]
        command = {
            "controller": ["fastchat.serve.controller"],
            "gateway": ["fastchat.serve.openai_api_server", *controller],
        }.get(name, ["fastchat.serve.model_worker", *controller, *model])
        env = {**os.environ, "FASTCHAT_WORKER_HEART_BEAT_INTERVAL": "0.5"}
        with open(self.log_path, "ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command, *place], env=env, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def signal(self, name: str, number: int) -> None:
        self.processes[name].send_signal(number)

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.urls["gateway"] + "/v1", api_key="x", max_retries=0, timeout=LIMIT_S
        )

    async def load(self, name: str) -> int:
        """Requests that a worker has."""
        url = self.urls[name] + "/worker_get_status"
        async with aiohttp.ClientSession() as session, session.post(url, json={}) as reply:
            return (await reply.json())["queue_length"]

    async def retries(self) -> float:
        """Requests that the gateway tried a second time."""
        url = self.urls["gateway"] + "/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            text = await reply.text()
        line = next(x for x in text.splitlines() if x.startswith("fastchat_gateway_retries_total"))
        return float(line.split()[-1])

    async def wait_for_load(self, name: str, queue_length: int) -> None:
        async with asyncio.timeout(LIMIT_S):
            while await self.load(name) != queue_length:
                await asyncio.sleep(0.02)

    async def wait_for_endpoints(self, n: int) -> None:
        """Returns when the controller has `n` workers and the gateway has them as well."""
        async with asyncio.timeout(LIMIT_S), aiohttp.ClientSession() as session:
            for name in ("controller", "gateway"):
                while True:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get(self.urls[name] + "/health") as reply:
                            health = await reply.json()
                            lost = health.get("controller") == "lost"
                            if health["endpoints"] == n and not lost:
                                break
                    await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster") / "log")
    try:
        for name in cluster.ports:
            cluster.start(name)
        for url in cluster.urls.values():
            wait_until_answers(url + "/health", list(cluster.processes.values()))
        yield cluster
    finally:
        for process in cluster.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def cluster(running_cluster: Cluster) -> Cluster:
    """The cluster with everything up and known."""
    for name in running_cluster.ports:
        running_cluster.start(name)
    for name in running_cluster.ports:
        running_cluster.signal(name, signal.SIGCONT)
        wait_until_answers(running_cluster.urls[name] + "/health", [])
    asyncio.run(running_cluster.wait_for_endpoints(2))
    return running_cluster


MESSAGES: list[Any] = [{"role": "user", "content": "abcdefghijklmnopqrstuvwxyz" * 3}]
SHORT: list[Any] = [{"role": "user", "content": "abc"}]


async def answer(client: openai.AsyncOpenAI, messages: list[Any]) -> str | None:
    reply = await client.chat.completions.create(model="m", messages=messages)
    return reply.choices[0].message.content


async def busy_worker(cluster: Cluster) -> str:
    """The name of the worker that has the only request under way."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            for name in ("a", "b"):
                if await cluster.load(name):
                    return name
            await asyncio.sleep(0.01)


async def test_a_worker_killed_in_a_stream_ends_it_with_an_error(cluster: Cluster) -> None:
    async with cluster.client() as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        pieces = 0
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pieces += 1
                if pieces == 3:
                    cluster.kill(await busy_worker(cluster))
        assert "closed" in str(caught.value) and pieces >= 3
        assert await answer(client, SHORT) == "abc"  # by the other


async def test_a_worker_killed_before_a_byte_is_replaced_unseen(cluster: Cluster) -> None:
    async with cluster.client() as client:
        waiting = asyncio.create_task(answer(client, MESSAGES))
        name = await busy_worker(cluster)
        cluster.kill(name)
        assert await waiting == MESSAGES[0]["content"]


async def test_a_stopped_worker_delays_nobody_else(cluster: Cluster) -> None:
    async with cluster.client() as client:
        waiting = [asyncio.create_task(answer(client, SHORT)) for _ in range(8)]
        cluster.signal("a", signal.SIGSTOP)
        assert await asyncio.gather(*waiting) == ["abc"] * 8
        n_retries = await cluster.retries()
        for _ in range(5):  # it is known by now: nobody is sent there first
            assert await answer(client, SHORT) == "abc"
        assert await cluster.retries() == n_retries
        cluster.signal("a", signal.SIGCONT)
        await cluster.wait_for_load("a", 0)


async def test_a_killed_controller_stops_nobody_and_finds_all_again(cluster: Cluster) -> None:
    async with cluster.client() as client:
        cluster.kill("controller")
        for _ in range(3):
            assert await answer(client, SHORT) == "abc"
        cluster.start("controller")
        await cluster.wait_for_endpoints(2)
        assert await answer(client, SHORT) == "abc"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_slot(cluster: Cluster, stream: bool) -> None:
    async with aiohttp.ClientSession() as session:
        body = {"model": "m", "messages": MESSAGES, "stream": stream, "max_tokens": 4000}
        url = cluster.urls["gateway"] + "/v1/chat/completions"
        request = asyncio.create_task(session.post(url, json=body | {"ignore_eos": True}))
        name = await busy_worker(cluster)
        if stream:
            (await request).close()
        else:
            request.cancel()
        await cluster.wait_for_load(name, 0)


async def test_a_worker_that_leaves_properly_is_forgotten_at_once(cluster: Cluster) -> None:
    cluster.signal("b", signal.SIGTERM)
    await cluster.wait_for_endpoints(1)
    async with cluster.client() as client:
        assert await answer(client, SHORT) == "abc"
