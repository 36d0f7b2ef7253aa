import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import pytest

from fastchat.llm_judge.account import Account
from fastchat.llm_judge.asking import ApiModel, Request
from fastchat.llm_judge.endpoints import EndpointSettings, endpoint_of
from fastchat.llm_judge.wire import is_behind_proxy
from fastchat.message import Message

REPLY = b'{"choices": [{"message": {"content": "[[A]]"}}]}'


class Proxy:
    """Answers whatever it is asked to pass on, and keeps the heads of the requests."""

    def __init__(self) -> None:
        self.heads: list[str] = []

    async def __aenter__(self) -> "Proxy":
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(w for w in head.lower().split("\r\n") if w.startswith("content-length:"))
        await reader.readexactly(int(length.partition(":")[2]))
        self.heads.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: ")
        writer.write(b"%d\r\n\r\n%b" % (len(REPLY), REPLY))
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment that names none."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    yield


async def ask(api_base: str) -> str:
    settings = EndpointSettings(api_base=api_base, api_key="secret", max_tries=1)
    endpoint = endpoint_of("m", settings)
    model = ApiModel("m", endpoint, settings, account=Account())
    asked = Request(messages=(Message(role="user", text="Why?"),), temperature=0.0, max_tokens=5)
    try:
        return (await model.ask(asked)).text
    finally:
        await model.close()


@pytest.mark.parametrize("user", ["", "ann:p%40ss@"])
async def test_the_environments_proxy_is_the_way_out(monkeypatch: Any, user: str) -> None:
    async with Proxy() as proxy:
        monkeypatch.setenv("http_proxy", f"http://{user}127.0.0.1:{proxy.port}")
        assert await ask("http://judge.example/v1") == "[[A]]"
    (head,) = proxy.heads
    assert head.startswith("POST http://judge.example/v1/chat/completions ")
    assert "bearer secret" in head.lower()
    told = base64.b64encode(b"ann:p@ss").decode()
    assert (f"Basic {told}" in head) == bool(user)


async def test_this_machine_and_exceptions_are_asked_directly(monkeypatch: Any) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with Proxy() as server:
        for host in ("127.0.0.1", "localhost"):
            assert await ask(f"http://{host}:{server.port}/v1") == "[[A]]"
    assert [head.split(" ")[1] for head in server.heads] == ["/v1/chat/completions"] * 2
    monkeypatch.setenv("no_proxy", "judge.example")
    assert not is_behind_proxy("http://judge.example/v1")
    assert is_behind_proxy("http://other.example/v1")
    assert not is_behind_proxy("https://other.example/v1")
    assert not is_behind_proxy("http://[::1]:8000/v1")
