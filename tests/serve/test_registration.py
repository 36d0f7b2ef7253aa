"""Registration against a small controller that can be taken away and brought back."""

import asyncio
from typing import Any

import pytest
from in_process import serving, until
from real_processes import free_port
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fastchat.errors import UsageError
from fastchat.serve.registration import Registration, worker_address
from fastchat.settings import ServerSettings


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies come; a machine that stands still makes none of them a failure."""
    monkeypatch.setattr("fastchat.serve.registration._TIMEOUT_S", 600.0)


class Book:
    """A controller that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.known: set[str] = set()
        self.status = 200
        self.holds = asyncio.Event()
        """A registration is written down, and answered only when this is set."""
        self.holds.set()
        paths = ("/register_worker", "/receive_heart_beat", "/unregister_worker")
        self.app = Starlette(routes=[Route(p, self.answer, methods=["POST"]) for p in paths])

    def count(self, path: str) -> int:
        return sum(call[0] == path for call in self.calls)

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        path = request.url.path
        self.calls.append((path, body))
        self.tokens.add(request.headers.get("authorization"))
        if self.status != 200:
            return JSONResponse({"error": "no"}, self.status)
        if path == "/register_worker":
            self.known.add(body["worker_name"])
            await self.holds.wait()
            return JSONResponse(None)
        if path == "/unregister_worker":
            self.known.discard(body["worker_name"])
            return JSONResponse({})
        return JSONResponse({"exist": body["worker_name"] in self.known})


def describe() -> dict[str, Any]:
    status = {"model_names": ["m"], "speed": 1, "queue_length": 7}
    return {"worker_name": "http://w:1", "check_heart_beat": True, "worker_status": status}


def registration(url: str, token: str | None = None) -> Registration:
    return Registration(url, describe, interval_s=0.02, token=token)


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.slow
async def test_a_worker_registers_beats_and_leaves() -> None:
    book = Book()
    async with serving(book.app) as url:
        task = asyncio.create_task(registration(url, "s3cret").run())
        await until(lambda: book.count("/receive_heart_beat") > 2)
        await stop(task)
    assert book.calls[0] == ("/register_worker", describe())
    assert book.calls[1][1] == {"worker_name": "http://w:1", "queue_length": 7}
    assert book.count("/register_worker") == 1
    assert book.calls[-1] == ("/unregister_worker", {"worker_name": "http://w:1"})
    assert book.tokens == {"Bearer s3cret"}


@pytest.mark.slow
async def test_models_that_come_or_go_are_told_at_once() -> None:
    book = Book()
    async with serving(book.app) as url:
        keeper = Registration(url, describe, interval_s=3600)
        task = asyncio.create_task(keeper.run())
        await until(lambda: book.count("/register_worker") == 1)
        keeper.renew()
        await until(lambda: book.count("/register_worker") == 2)
        await stop(task)
    assert book.count("/receive_heart_beat") == 0


@pytest.mark.slow
async def test_a_controller_that_forgot_us_is_told_again() -> None:
    book = Book()
    async with serving(book.app) as url:
        task = asyncio.create_task(registration(url).run())
        await until(lambda: book.known)
        book.known.clear()
        await until(lambda: book.known)
        await stop(task)
    assert book.count("/register_worker") == 2


@pytest.mark.slow
async def test_a_worker_that_ends_before_it_is_answered_leaves_as_well() -> None:
    book = Book()
    book.holds.clear()
    async with serving(book.app) as url:
        task = asyncio.create_task(registration(url).run())
        await until(lambda: book.known)
        await stop(task)
        assert book.calls[-1] == ("/unregister_worker", {"worker_name": "http://w:1"})
        assert not book.known
        book.holds.set()


@pytest.mark.slow
async def test_a_controller_that_comes_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastchat.serve.registration._FIRST_DELAY_S", 0.01)
    nobody = f"http://127.0.0.1:{free_port()}"
    alone = asyncio.create_task(registration(nobody).run())
    await asyncio.sleep(0.1)
    assert not alone.done()
    await stop(alone)

    book = Book()
    book.status = 503
    async with serving(book.app) as url:
        task = asyncio.create_task(registration(url).run())
        await until(lambda: book.count("/register_worker") > 2)
        book.status = 200
        await until(lambda: book.known)
        await stop(task)


@pytest.mark.slow
async def test_a_failing_heart_beat_does_not_register_again() -> None:
    book = Book()
    async with serving(book.app) as url:
        task = asyncio.create_task(registration(url).run())
        await until(lambda: book.count("/receive_heart_beat") > 0)
        book.status = 500
        beats = book.count("/receive_heart_beat")
        await until(lambda: book.count("/receive_heart_beat") > beats + 2)
        await stop(task)
    assert book.count("/register_worker") == 1


@pytest.mark.parametrize(
    ("host", "ssl", "address"),
    [
        ("localhost", False, "http://localhost:21002"),
        ("192.168.0.7", True, "https://192.168.0.7:21002"),
        ("::1", False, "http://[::1]:21002"),
        ("0.0.0.0", False, "http://localhost:21002"),
    ],
)
def test_the_address_is_derived_from_host_and_port(host: str, ssl: bool, address: str) -> None:
    settings = ServerSettings(host=host, ssl=ssl)
    found = worker_address(settings, port=21002, controller_url="http://127.0.0.1:21001")
    assert found == address


def test_a_controller_address_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="--controller-address 'localhost:21001'"):
        worker_address(ServerSettings(), port=1, controller_url="localhost:21001")
