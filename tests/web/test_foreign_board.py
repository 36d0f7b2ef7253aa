"""A leaderboard of others, from a server of theirs."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fastchat.errors import DataError, UnavailableError
from fastchat.web import foreign_board
from fastchat.web.foreign_board import KEPT_S, ForeignBoard, table_of


class Clock:
    time = 0.0

    def __call__(self) -> float:
        return self.time


async def test_it_is_asked_for_now_and_then_and_stays_while_the_server_is_away() -> None:
    answers: list[Any] = [[{"model": "<b>", "score": 1.239}], None, {"rows": [{"model": "new"}]}]
    asked: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(1)
        value = answers[min(len(asked), len(answers)) - 1]
        return web.Response(status=503) if value is None else web.json_response(value)

    app = web.Application()
    app.router.add_get("/board", answer)
    clock = Clock()
    async with TestServer(app) as server:
        board = ForeignBoard(str(server.make_url("/board")), now=clock)
        first = await asyncio.to_thread(board.html)
        assert "<td>&lt;b&gt;</td><td>1.24</td>" in first
        assert await asyncio.to_thread(board.html) == first and len(asked) == 1
        clock.time += KEPT_S
        assert await asyncio.to_thread(board.html) == first, "it was away"
        clock.time += KEPT_S
        assert "<td>new</td>" in await asyncio.to_thread(board.html)
    assert len(asked) == 3


async def test_what_cannot_be_shown_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="[" + "1," * 100 + "1]")

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app) as server:
        board = ForeignBoard(str(server.make_url("/")))
        with pytest.raises(DataError, match="no list of models"):
            await asyncio.to_thread(board.html)
        monkeypatch.setattr(foreign_board, "LARGEST_BYTES", 10)
        with pytest.raises(DataError, match="too large"):
            await asyncio.to_thread(board.html)
    with pytest.raises(UnavailableError, match="does not answer"):
        ForeignBoard("http://127.0.0.1:1/").html()


@pytest.mark.parametrize("value", [None, [], {}, "text", {"a": 1, "b": [1]}, [{"a": 1}, 2]])
def test_other_json_is_no_table(value: Any) -> None:
    with pytest.raises(DataError):
        table_of(value)


def test_fields_that_only_some_have_become_columns() -> None:
    shown = table_of([{"model": "a", "score": None}, {"model": "b", "votes": 3, "more": [1]}])
    assert shown.count("<th ") == 4
    assert "<td>a</td><td>–</td><td>–</td><td>–</td>" in shown
    assert "<td>b</td><td>–</td><td>3</td><td>–</td>" in shown
