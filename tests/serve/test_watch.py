import asyncio
import json
from typing import Any

import pytest
from live import LIMIT_S

from fastchat.serve import watch
from fastchat.serve.endpoints import Endpoint
from fastchat.serve.router import Router
from fastchat.serve.watch import Feed


def endpoint(name: str) -> Endpoint:
    return Endpoint(name=name, model_names=("m",))


async def read(lines: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await anext(lines)).splitlines()]


async def test_a_slow_follower_gets_the_sum_of_what_changed() -> None:
    router = Router()
    feed = Feed(router.snapshot, controller_id="c", expiry_s=90)
    lines = feed.lines()
    (first,) = await read(lines)
    assert first == {"event": "snapshot", "controller_id": "c", "expiry_s": 90, "workers": []}
    router.register(endpoint("http://a:1"), now=0)
    await feed.announce()
    router.register(endpoint("http://b:1"), now=0)
    router.unregister("http://a:1")
    await feed.announce()
    (change,) = await read(lines)
    assert change["worker"]["worker_name"] == "http://b:1"
    await lines.aclose()


async def test_a_ping_comes_when_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PING_S", 0.01)
    feed = Feed(Router().snapshot, controller_id="c", expiry_s=90)
    lines = feed.lines()
    await read(lines)
    assert await read(lines) == [{"event": "ping"}]
    await lines.aclose()


async def test_an_announcement_without_a_change_sends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "PING_S", 0.05)
    feed = Feed(Router().snapshot, controller_id="c", expiry_s=90)
    lines = feed.lines()
    await read(lines)
    await feed.announce()
    assert await read(lines) == [{"event": "ping"}]
    await lines.aclose()


async def test_heart_beats_that_change_nothing_put_off_no_ping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "PING_S", 0.1)
    feed = Feed(Router().snapshot, controller_id="c", expiry_s=90)
    lines = feed.lines()
    await read(lines)

    async def beat() -> None:
        while True:
            await feed.announce()
            await asyncio.sleep(0)

    beating = asyncio.ensure_future(beat())
    async with asyncio.timeout(LIMIT_S):
        assert await read(lines) == [{"event": "ping"}]
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    await lines.aclose()


async def test_closing_ends_the_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PING_S", LIMIT_S)
    feed = Feed(Router().snapshot, controller_id="c", expiry_s=90)
    lines = feed.lines()
    await read(lines)
    waiting = asyncio.ensure_future(anext(lines, None))
    await asyncio.sleep(0)
    await feed.close()
    assert await waiting is None
