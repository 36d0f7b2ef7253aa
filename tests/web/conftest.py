"""A small OpenAI server that answers as it is told, for the tests of the page."""

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from live import LIMIT_S

RICH = """\
# Heading

Some **bold** words, `inline code`, and a list:

1. one
2. two

```python
for number in range(1, 6):
    print(number)
```

Euler: $e^{i\\pi} + 1 = 0$ and

$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$

| a | b |
|---|---|
| 1 | 2 |
"""
HOSTILE = """\
Hello <script>window.pwned = 1</script>
<img src=x onerror="window.pwned = 2">
<svg onload="window.pwned = 3"></svg>
<iframe srcdoc="<script>parent.pwned = 4</script>"></iframe>
[link](javascript:window.pwned=5) <a href="vbscript:window.pwned=6">vb</a>
[data](data:text/html,<script>window.pwned=7</script>)
![beacon](http://example.invalid/beacon.png) <link rel=stylesheet href=http://example.invalid/x.css>
$\\href{javascript:window.pwned=8}{x}$
```html
<script>window.pwned = 9</script>
```
```mermaid
graph TD; A["<img src=x onerror='window.pwned = 10'>"]
```
<form action="http://example.invalid/"><input name=q></form>
The end.
"""


class FakeOpenAI:
    """Answers by the last word said to it; counts what it was asked and what was given up."""

    def __init__(self) -> None:
        self.models: list[dict[str, Any]] = [{"id": "parrot", "context_length": 4096}]
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.says_its_name = True
        self.rich = RICH
        self.lists = True
        """Whoever asks for the models is told them; else waits."""
        self.holds = False
        """Answers are kept from ending."""
        self.stored: dict[str, bytes] = {}
        self.given_up = 0
        self.open = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def root(self) -> str:
        """The address without `/v1`."""
        return self.url.removesuffix("/v1")

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(LIMIT_S)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Returns when `happened`; fails when it does not for a long time."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            if happened():
                return
            time.sleep(0.05)
        raise AssertionError(f"it did not happen: {self.requests=} {self.given_up=} {self.open=}")

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_put("/bucket/{name}", self._store)
        app.router.add_post("/list_models", self._list_models)
        app.router.add_post("/get_worker_address", self._worker_address)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await self._site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/v1"

    async def _stop(self) -> None:
        """Closes every connection, also those that are just being accepted."""
        await self._site.stop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        accepting = [t for t in others if "_accept_connection" in t.get_coro().__qualname__]
        await asyncio.gather(*accepting, return_exceptions=True)
        await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        while not self.lists:
            await asyncio.sleep(0.01)
        entries = [{"object": "model", "created": 1, "owned_by": "x", **m} for m in self.models]
        return web.json_response({"object": "list", "data": entries})

    async def _store(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        self.stored[request.path] = await request.read()
        return web.Response()

    async def _list_models(self, request: web.Request) -> web.Response:
        return web.json_response({"models": [model["id"] for model in self.models]})

    async def _worker_address(self, request: web.Request) -> web.Response:
        wanted = (await request.json())["model"]
        known = any(model["id"] == wanted for model in self.models)
        return web.json_response({"address": self.root if known else ""})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        said = body["messages"][-1]["content"]
        said = said if isinstance(said, str) else said[0]["text"]
        order = said.split()[-1]
        refusals = {
            "!busy": (429, "The queue is full."),
            "!broken": (500, "Internal error; the server's log has the details."),
            "!gone": (503, "No worker serves it."),
            "!unknown": (404, "No such model."),
            "!toolong": (400, "The prompt has 9000 tokens and the context 4096."),
            "!locked": (401, "Wrong key."),
            "!late": (504, "Too slow."),
        }
        if order in refusals:
            status, message = refusals[order]
            error = {"message": message, "type": "x", "param": None, "code": "x"}
            return web.json_response({"error": error}, status=status)
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        self.open += 1
        try:
            await stream.prepare(request)
            await self._stream(stream, body, said, order)
        except (ConnectionError, asyncio.CancelledError):
            self.given_up += 1
            raise
        finally:
            self.open -= 1
        return stream

    async def _stream(
        self, stream: web.StreamResponse, body: dict[str, Any], said: str, order: str
    ) -> None:
        async def send(delta: dict[str, Any], reason: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            event = {
                "id": "1",
                "object": "chat.completion.chunk",
                "created": 1,
                "choices": [choice],
            }
            await stream.write(
                f"data: {json.dumps({**event, 'model': body['model']})}\n\n".encode()
            )

        await send({"role": "assistant", "content": ""})
        reason = "stop"
        match order:
            case "!hang":
                while True:
                    await stream.write(b": still here\n\n")
                    await asyncio.sleep(0.05)
            case "!slow":
                for number in itertools.count():
                    await send({"content": f"{number} "})
                    await asyncio.sleep(0.05)
            case "!break":
                await send({"content": "Half an ans"})
                await self._until_let_go()
                error = {"message": "The model ran out of memory.", "type": "x", "code": "x"}
                await stream.write(f"data: {json.dumps({'error': error})}\n\n".encode())
            case "!cut":
                await send({"content": "Half an ans"})
                return
            case "!empty":
                pass
            case "!length":
                await send({"content": "As long as it may be"})
                reason = "length"
            case "!rich":
                for line in self.rich.splitlines(keepends=True):
                    await send({"content": line})
            case "!think":
                for word in ("<think>", "Let me ", "see.", "</think>", "\n\nIt is ", "19."):
                    await send({"content": word})
            case "!hostile":
                for line in HOSTILE.splitlines(keepends=True):
                    await send({"content": line})
            case _:
                who = body["model"] if self.says_its_name else "somebody"
                for word in f"{who} heard: {said}".split(" "):
                    await send({"content": word + " "})
        await self._until_let_go()
        if order != "!break":
            await send({}, reason)
        await stream.write(b"data: [DONE]\n\n")

    async def _until_let_go(self) -> None:
        while self.holds:
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page gives nobody up whom a slow machine keeps from answering.

    Tests of what happens when somebody is given up set the limit that they mean.
    """
    from fastchat.store import database
    from fastchat.web import foreign_board, guard, images, models, remote_log

    for module, limits in {
        database: ("BUSY_S", "TURN_S", "CONNECT_S"),
        foreign_board: ("TIMEOUT_S",),
        guard: ("MODERATION_TIMEOUT_S", "MONITOR_TIMEOUT_S"),
        images: ("STORAGE_TIMEOUT_S",),
        models: ("LIST_TIMEOUT_S",),
        remote_log: ("TIMEOUT_S",),
    }.items():
        for limit in limits:
            monkeypatch.setattr(module, limit, int(LIMIT_S))


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    """A fake OpenAI server (and controller) on a free port of its own."""
    server = FakeOpenAI()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def served() -> list[Any]:
    """The pages that this test serves, each a `Guard`."""
    return []


@pytest.fixture
def all_done(served: list[Any], fake: FakeOpenAI) -> Callable[[], None]:
    """Returns once every event that reached the pages has told its browser all it had to tell."""

    def is_done() -> bool:
        blocks = [route.app.get_blocks() for page in served for route in page.app.routes[-1:]]
        return not any(any(list(b._queue.pending_event_ids_session.values())) for b in blocks)

    return lambda: fake.wait_until(is_done)


@pytest.fixture
def serve_app(fake: FakeOpenAI, served: list[Any]) -> Iterator[Callable[[Callable[[], Any]], str]]:
    """Serves what a function builds on a free port; gives its address.

    `fake` is named so that it ends after the pages that ask it.
    """
    import uvicorn

    from fastchat.serve import asgi

    class Server(uvicorn.Server):
        """Says when it is open, and ends event streams before it closes."""

        def __init__(self, build: Callable[[], Any]) -> None:
            self.page = build()
            served.append(self.page)
            super().__init__(
                uvicorn.Config(
                    self.page,
                    log_config=None,
                    lifespan="on",
                    proxy_headers=False,
                    timeout_keep_alive=3600,
                )
            )
            self.opened = threading.Event()

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self.opened.set()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await self.page.end_streams()
            await super().shutdown(sockets)

    servers: list[Server] = []
    threads: list[threading.Thread] = []

    def serve(build: Callable[[], Any]) -> str:
        sockets = asgi.bind("127.0.0.1", 0)
        made = threading.Event()

        async def main() -> None:  # the library wants a running loop while the page is built
            try:
                servers.append(Server(build))
            finally:
                made.set()
            await servers[-1].serve(sockets)

        threads.append(threading.Thread(target=asyncio.run, args=(main(),), daemon=True))
        threads[-1].start()
        assert made.wait(LIMIT_S)
        assert servers[-1].opened.wait(LIMIT_S)
        return f"http://127.0.0.1:{sockets[0].getsockname()[1]}"

    yield serve
    for server, thread in zip(servers, threads, strict=True):
        server.should_exit = True
        thread.join(LIMIT_S)
        assert not thread.is_alive()


@pytest.fixture
def serve_page(serve_app: Callable[..., str]) -> Callable[..., str]:
    """Serves a page with the given `PageSettings` on a free port; gives its address."""
    from fastchat.web.app import PageSettings, build_app

    return lambda **settings: serve_app(lambda: build_app(PageSettings(**settings)))


@pytest.fixture
def serve_arena(
    serve_app: Callable[..., str], fake: FakeOpenAI, tmp_path: Path
) -> Callable[..., str]:
    """Serves an arena over `fake`, whose database and logs lie in `tmp_path`; gives its address.

    Settings of the page go by `page`, a mapping.
    """
    from fastchat.web.app import PageSettings
    from fastchat.web.arena import ArenaSettings, build_arena
    from fastchat.web.models import Source

    def serve(*, page: dict[str, Any] | None = None, **settings: Any) -> str:
        about = {"source": Source(api_url=fake.url), **(page or {})}
        chosen = {
            "database_url": str(tmp_path / "arena.db"),
            "log_folder": tmp_path / "logs",
            "seed": 5,
            **settings,
        }
        return serve_app(lambda: build_arena(ArenaSettings(page=PageSettings(**about), **chosen)))

    return serve
