"""What the page's server lets in, and what its replies carry."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from live import LIMIT_S
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from fastchat.web.security import BODY_LIMIT_BYTES, Guard


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    await Request(scope, receive).body()
    await PlainTextResponse("inside")(scope, receive, send)


def client(host: str = "localhost:7860", **guard: Any) -> httpx.AsyncClient:
    settings = {"hosts": (), "any_host": False, **guard}
    transport = httpx.ASGITransport(Guard(inner, **settings))
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}", timeout=LIMIT_S)


@pytest.mark.parametrize("path", ["/", "/config", "/assets/x.js", "/gradio_api/queue/data?a=b"])
async def test_what_the_page_needs_is_open_and_carries_the_policy(path: str) -> None:
    reply = await client().get(path)
    assert (reply.status_code, reply.text) == (200, "inside")
    assert "default-src 'self'" in reply.headers["content-security-policy"]
    assert "frame-ancestors 'self'" in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    [
        "/file=/etc/passwd",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../pyproject.toml",
        "/gradio_api/file=http://169.254.169.254/",
        "/gradio_api/upload",
        "/gradio_api/proxy=http://example.com/",
        "/gradio_api/stream/x/1/2/playlist.m3u8",
        "/gradio_api/process_recording",
        "/gradio_api/vibe-edit",
        "/gradio_api/dev/reload",
        "/gradio_api/openapi.json",
        "/monitoring",
        "/docs",
        "/openapi.json",
        "/static/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2fetc/passwd",
    ],
)
async def test_what_the_page_does_not_need_is_not_there(path: str) -> None:
    for method in ("GET", "POST"):
        reply = await client().request(method, path)
        assert reply.status_code == 404
        assert "content-security-policy" in reply.headers


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:7860", "[::1]:7860", "a.localhost"])
async def test_names_of_this_machine_are_known(host: str) -> None:
    assert (await client(host).get("/")).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "192.168.0.7", "::bad]"])
async def test_a_foreign_name_is_refused_on_a_local_page(host: str) -> None:
    reply = await client().get("/", headers={"host": host})
    assert reply.status_code == 403
    assert "--allowed-hosts" in reply.text


async def test_names_that_were_told_are_known() -> None:
    told = client("chat.example.com", hosts=("Chat.Example.com",))
    assert (await told.get("/")).status_code == 200
    assert (await client("any.example", any_host=True).get("/")).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost.evil.example"])
async def test_changes_from_other_sites_are_refused(origin: str) -> None:
    reply = await client().post("/gradio_api/queue/join", json={}, headers={"origin": origin})
    assert reply.status_code == 403
    assert "access-control-allow-origin" not in reply.headers


async def test_changes_from_the_page_itself_pass() -> None:
    post = {"url": "/gradio_api/queue/join", "json": {}}
    own = {"origin": "http://localhost:7860"}
    assert (await client().post(**post, headers=own)).status_code == 200
    assert (await client().post(**post)).status_code == 200, "programs send no origin"
    behind = {"origin": "https://chat.example.com", "x-forwarded-host": "chat.example.com"}
    assert (await client().post(**post, headers=behind)).status_code == 200


async def test_bodies_are_bounded() -> None:
    post = client().build_request("POST", "/gradio_api/queue/join", content=b"x")
    post.headers["content-length"] = str(BODY_LIMIT_BYTES + 1)
    assert (await client().send(post)).status_code == 413

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"

    reply = await client().post("/gradio_api/queue/join", content=endless())
    assert reply.status_code == 411


async def test_a_stream_that_comes_while_the_server_ends_is_not_begun() -> None:
    """It would be nobody's to end, and the server would wait for its reader to leave."""
    begun: list[str] = []

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await asyncio.Event().wait()

    guard = Guard(endless, hosts=(), any_host=False)
    sent: list[Message] = []

    async def ask(path: str) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost:7860")]
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
        await guard(scope, receive, send)

    open_page = asyncio.create_task(ask("/gradio_api/heartbeat/early"))
    while not begun:
        await asyncio.sleep(0)
    await guard.end_streams()
    await open_page
    assert sent[-1] == {"type": "http.response.body", "body": b""}
    await ask("/gradio_api/heartbeat/late")
    assert begun == ["/gradio_api/heartbeat/early"]
    assert [m["status"] for m in sent if m["type"] == "http.response.start"] == [200, 503]
