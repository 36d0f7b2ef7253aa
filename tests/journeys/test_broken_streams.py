"""A stream whose worker is killed ends with an error event, whichever door it came through."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from live import LIMIT_S
from real_processes import free_port, running, wait_until_answers

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("platform")]

HELLO = [{"role": "user", "content": "a long text " * 100}]
ENOUGH = 8
"""Events, of which in every protocol the last ones are text."""
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "a long text " * 100, "max_tokens": 1000},
    "/v1/responses": {"input": HELLO},
    "/v1/messages": {"messages": HELLO, "max_tokens": 1000},
}


async def test_every_door_tells_that_the_worker_was_killed(tmp_path: Path) -> None:
    ports = [str(free_port()) for _ in range(3)]
    controller, gateway = (f"http://127.0.0.1:{port}" for port in (ports[0], ports[2]))
    place = ["--host", "127.0.0.1", "--port"]
    with running(
        ["fastchat.serve.controller", *place, ports[0]],
        [
            *("fastchat.serve.model_worker", *place, ports[1], "--controller", controller),
            *("--model-path", "echo:delay_ms=50", "--model-names", "m"),
        ],
        ["fastchat.serve.openai_api_server", *place, ports[2], "--controller", controller],
        log_path=tmp_path / "log",
    ) as processes:
        wait_until_answers(f"{gateway}/v1/models/m", processes)
        begun = asyncio.Barrier(len(BODIES) + 1)
        limit = aiohttp.ClientTimeout(total=LIMIT_S)
        async with aiohttp.ClientSession(gateway, timeout=limit) as session:
            streams = [asyncio.ensure_future(events(session, path, begun)) for path in BODIES]
            await asyncio.wait_for(begun.wait(), LIMIT_S)
            processes[1].kill()
            ended = dict(zip(BODIES, await asyncio.gather(*streams), strict=True))
    for path in ("/v1/chat/completions", "/v1/completions"):
        assert ended[path][-1]["error"]["message"], path
    assert ended["/v1/responses"][-1]["type"] == "response.failed"
    assert ended["/v1/responses"][-1]["response"]["error"]["message"]
    assert ended["/v1/messages"][-1]["type"] == "error"
    assert ended["/v1/messages"][-1]["error"]["message"]
    assert str(os.getcwd()) not in json.dumps(ended)


async def events(
    session: aiohttp.ClientSession, path: str, begun: asyncio.Barrier
) -> list[dict[str, Any]]:
    """All events of a stream; tells `begun` when some have come, of which one has text."""
    body = {"model": "m", "stream": True, **BODIES[path]}
    found: list[dict[str, Any]] = []
    async with session.post(path, json=body) as reply:
        assert reply.status == 200
        async for line in reply.content:
            if line.startswith(b"data: {"):
                found.append(json.loads(line[6:]))
                if len(found) == ENOUGH:
                    await begun.wait()
    return found
