"""Limits, moderation and addresses, each without a key."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fastchat.errors import UsageError
from fastchat.web.guard import (
    MODERATED_CHARS,
    CallMonitor,
    Moderation,
    OpenAIModerator,
    VoteLimit,
    moderated_text,
    read_patterns,
)
from fastchat.web.visitors import client_address, cookie_in, read_networks


class Clock:
    time = 0.0

    def __call__(self) -> float:
        return self.time


def test_ten_thousand_votes_of_one_address_are_limited() -> None:
    clock = Clock()
    limit = VoteLimit(30, now=clock)
    assert sum(limit.takes("a") for _ in range(10_000)) == 30
    assert limit.takes("b"), "another address is another voter"
    clock.time = 61
    assert limit.takes("a")
    assert all(VoteLimit(0, now=clock).takes("a") for _ in range(100))


def test_the_message_is_moderated_with_the_ends_of_both_sides() -> None:
    text = moderated_text([["a" * 5000], ["b" * 5000]], "new")
    assert text == "a" * (MODERATED_CHARS // 2) + "\n" + "b" * (MODERATED_CHARS // 2) + "\nnew"
    assert moderated_text([[], []], "new") == "new"


async def test_patterns_are_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "patterns"
    path.write_text("# comment\n\nbad\\s+word\n", "utf-8")
    moderator = read_patterns(path)
    assert await moderator.flags("a BAD  word")
    assert not await moderator.flags("comment")
    for text in ("", "# only\n", "(\n"):
        path.write_text(text, "utf-8")
        with pytest.raises(UsageError, match="--moderation-file"):
            read_patterns(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_patterns(tmp_path / "none")


class Broken:
    async def flags(self, text: str) -> bool:
        raise ConnectionError("away")

    async def close(self) -> None:
        pass


async def test_the_operator_says_what_counts_when_nobody_can_be_asked() -> None:
    assert await Moderation(moderator=Broken()).flags("x")
    assert not await Moderation(moderator=Broken(), on_failure="open").flags("x")


def moderation_server(scores: dict[str, float], flagged: bool) -> TestServer:
    async def moderate(request: web.Request) -> web.Response:
        assert request.headers["authorization"] == "Bearer k"
        text = (await request.json())["input"]
        result = {"flagged": flagged, "categories": {}, "category_scores": scores}
        return web.json_response({"id": "1", "model": "m", "results": [result], "text": text})

    app = web.Application()
    app.router.add_post("/v1/moderations", moderate)
    return TestServer(app)


@pytest.mark.parametrize(
    ("sexual", "flagged", "expected"), [(0.1, False, False), (0.4, False, True), (0.0, True, True)]
)
async def test_a_moderation_service_is_asked(sexual: float, flagged: bool, expected: bool) -> None:
    async with moderation_server({"sexual": sexual}, flagged) as server:
        moderator = OpenAIModerator(api_key="k", base_url=str(server.make_url("/v1")))
        assert await moderator.flags("hello") is expected
        await moderator.close()


async def test_a_call_monitor_may_refuse_and_may_be_away() -> None:
    async def limit(request: web.Request) -> web.Response:
        reached = request.query["model"] == "busy" and request.query["user_id"] == "1.2.3.4"
        answer = {"is_limit_reached": reached, "reason": "USER_DAILY_LIMIT (busy): 1"}
        return web.json_response(answer)

    app = web.Application()
    app.router.add_get("/is_limit_reached", limit)
    async with TestServer(app) as server:
        monitor = CallMonitor(str(server.make_url("/")))
        assert await monitor.reason("busy", "1.2.3.4") == "USER_DAILY_LIMIT (busy): 1"
        assert await monitor.reason("free", "1.2.3.4") == ""
        await monitor.close()
    gone = CallMonitor("http://127.0.0.1:1")
    assert await gone.reason("busy", "1.2.3.4") == ""
    await gone.close()


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("9.9.9.9", "1.1.1.1", "9.9.9.9"),
        ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "<script>", "10.0.0.1"),
    ],
)
def test_only_trusted_proxies_are_believed(peer: str, forwarded: str, expected: str) -> None:
    assert client_address(peer, forwarded, read_networks(["10.0.0.0/8"])) == expected


def test_a_wrong_network_is_refused() -> None:
    with pytest.raises(UsageError, match="--trusted-proxies"):
        read_networks(["10.0.0.0/99"])


def test_our_cookie_is_found_among_others() -> None:
    assert cookie_in("a=b; fastchat_visitor=xyz; c=d") == "xyz"
    assert cookie_in("a=b") == cookie_in("") == ""


async def test_the_remote_log_gets_every_line_however_often_it_is_away() -> None:
    from fastchat.arena.events import Event, LoggedState
    from fastchat.web.remote_log import RemoteLog

    got: list[Any] = []
    refusals = iter([True, False, True])

    async def take(request: web.Request) -> web.Response:
        if next(refusals, False):
            return web.Response(status=503)
        body = await request.json()
        got.extend(body if isinstance(body, list) else [body])
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    state = LoggedState(conv_id="c", model_name="m", messages=(("user", "hi"),))
    lines = [
        Event(type="chat", tstamp=float(i), models=("m",), states=(state,)) for i in range(250)
    ]
    async with TestServer(app) as server:
        remote = RemoteLog(str(server.make_url("/")), pause_s=0.01)
        remote.add(lines[:1])
        await asyncio.sleep(0)
        remote.add(lines[1:])
        while len(got) < len(lines):
            await asyncio.sleep(0.01)
        await remote.close()
    assert [row["tstamp"] for row in got] == [float(i) for i in range(250)]
    assert json.loads(got[0]["state"])["conv_id"] == "c", "nested values are texts, as published"
    assert remote.dropped == 0


async def test_the_remote_logs_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastchat.arena.events import Event, LoggedState
    from fastchat.web import remote_log

    monkeypatch.setattr(remote_log, "QUEUE_LIMIT", 10)
    state = LoggedState(conv_id="c", model_name="m", messages=())
    remote = remote_log.RemoteLog("http://127.0.0.1:1", pause_s=0.0)
    event = Event(type="chat", tstamp=1.0, models=("m",), states=(state,))
    remote.add([event] * 25)
    assert remote.dropped == 15
    await remote.close()
    assert remote.dropped == 25, "what nobody took is counted"
