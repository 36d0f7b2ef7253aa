"""Time limits of a process that itself stands still, which is forced here, never waited for."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from live import until

from fastchat.errors import FastChatError
from fastchat.serve import asgi, forwarder, patience
from fastchat.serve.asgi import EventStream
from fastchat.serve.endpoints import Endpoint
from fastchat.serve.exchange import Exchange
from fastchat.serve.forwarder import Forwarder
from fastchat.serve.patience import lost_s, time_limit
from fastchat.serve.roster import Roster


def stand_still(seconds: float) -> None:
    """Nothing else in this process goes on meanwhile."""
    time.sleep(seconds)


async def test_what_came_while_the_process_stood_still_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "LATE_S", 0.05)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    async def ask() -> str:
        async with time_limit(0.02):
            return await answer

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    loop.call_later(0.01, answer.set_result, "here")
    stand_still(0.2)  # the answer and the end of the limit are seen in one turn of the loop
    assert await asking == "here"


async def test_silence_ends_at_the_limit() -> None:
    with pytest.raises(TimeoutError):
        async with time_limit(0.01):
            await asyncio.Event().wait()


async def test_a_loop_that_is_always_late_gives_up_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "LATE_S", -1.0)
    with pytest.raises(TimeoutError):
        async with time_limit(0.01):
            await asyncio.Event().wait()


def test_a_little_late_is_not_late() -> None:
    assert lost_s(0.7, 0.5) == 0.0
    assert lost_s(5.5, 0.5) == 5.0


async def test_a_gateway_that_stood_still_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "SWEEP_S", 0.0)
    looks = iter([0.0, 60.0, 60.2, 60.6, 61.0, 61.4])  # it stood still for a minute
    seen: list[float] = []

    def now() -> float:
        seen.append(next(looks, 62.0))
        return seen[-1]

    ended: list[tuple[float, FastChatError]] = []
    connection: Any = SimpleNamespace(
        fresh=False, abort=lambda error: ended.append((seen[-1], error))
    )
    sweeper = Forwarder(Roster(None), timeout_s=1.0, now=now)
    exchange = Exchange("m", 0.0, timeout_s=1.0)
    exchange.connection = connection
    exchange.endpoint = Endpoint(name="http://a:1", model_names=("m",))
    sweeper._live.add(exchange)
    sweeping = asyncio.create_task(sweeper.sweep())
    await until(lambda: ended)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    assert ended[0][0] == 61.4  # a second of its own silence, not of ours
    assert ended[0][1].code == "timeout"


async def test_a_reader_is_not_slow_where_the_server_stood_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "LATE_S", 0.1)
    monkeypatch.setattr(asgi, "_TICK_S", 0.02)
    monkeypatch.setattr(asgi, "SSE_STALL_S", 0.3)
    has_room = asyncio.Event()
    sent: list[bytes] = []

    async def events() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async def send(message: Any) -> None:
        if message.get("body") == b"one":
            sending.set()
            await has_room.wait()
        sent.append(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.Event().wait()

    sending = asyncio.Event()
    stream = asyncio.create_task(EventStream(events())({"type": "http"}, receive, send))
    await sending.wait()
    stand_still(0.6)
    await asyncio.sleep(0)  # the watcher sees how late it is before there is room
    asyncio.get_running_loop().call_later(0.01, has_room.set)
    await stream
    assert sent == [b"", b"one", b"two", b""]
