"""A page's own gateway for its endpoint file."""

import asyncio
import json
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
import uvicorn
from fake_provider import TEXT, FakeProvider
from live import LIMIT_S, serving

from fastchat.errors import UsageError
from fastchat.serve.gradio_web_server import (
    WebSettings,
    read_page_settings,
    with_endpoint_file,
)
from fastchat.serve.gradio_web_server_multi import MultiSettings
from fastchat.serve.side_gateway import side_gateway
from fastchat.settings import parse


def write(tmp_path: Path, url: str) -> Path:
    path = tmp_path / "endpoints.json"
    entry = {"model_name": "theirs", "api_type": "openai", "api_base": url, "anony_only": False}
    path.write_text(json.dumps({"ours": entry}))
    return path


@pytest.mark.slow
async def test_the_files_models_are_there_while_the_page_runs(tmp_path: Path) -> None:
    async with serving(FakeProvider("openai")) as provider_url:
        file = write(tmp_path, provider_url + "/v1")
        with side_gateway(file, api_url=None, controller_url="", timeout_s=20) as side:
            assert side is not None and side.api_key not in repr(threading.enumerate())
            async with openai.AsyncOpenAI(
                base_url=side.api_url, api_key=side.api_key, max_retries=0
            ) as client:
                assert [model.id async for model in client.models.list()] == ["ours"]
                answer = await client.chat.completions.create(
                    model="ours", messages=[{"role": "user", "content": "hi"}]
                )
                assert answer.choices[0].message.content == TEXT
                client.api_key = "other"
                with pytest.raises(openai.AuthenticationError):
                    await client.models.list()
        assert "gateway" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.slow
def test_who_asks_before_it_serves_is_answered_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_asked = threading.Event()
    startup = uvicorn.Server.startup

    async def late(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(has_asked.wait, LIMIT_S)
        await startup(self, sockets=sockets)

    monkeypatch.setattr(uvicorn.Server, "startup", late)
    file = write(tmp_path, "http://127.0.0.1:9/v1")
    with side_gateway(file, api_url=None, controller_url="", timeout_s=20) as side:
        assert side is not None
        address = urlsplit(side.api_url)
        with socket.create_connection(("127.0.0.1", address.port or 0), LIMIT_S) as asking:
            asking.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            has_asked.set()
            assert asking.recv(12) == b"HTTP/1.1 200"


@pytest.mark.slow
def test_both_pages_ask_it_where_they_have_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, "http://127.0.0.1:9/v1")
    for kind in (WebSettings, MultiSettings):
        flags = ["--register-api-endpoint-file", str(file), "--controller", ""]
        with with_endpoint_file(parse(kind, flags)) as settings:
            page = read_page_settings(settings)
            assert page.source.api_url is not None
            assert page.source.api_url.startswith("http://127.0.0.1:")
            assert page.source.api_key
        with with_endpoint_file(parse(kind, [])) as settings:
            assert settings.api_url is None


def test_without_a_file_nothing_runs() -> None:
    with side_gateway(None, api_url="http://h", controller_url="", timeout_s=1) as side:
        assert side is None


def test_a_file_and_a_gateway_exclude_each_other(tmp_path: Path) -> None:
    file = write(tmp_path, "http://127.0.0.1:9/v1")
    with (
        pytest.raises(UsageError, match="exclude"),
        side_gateway(file, api_url="http://h/v1", controller_url="", timeout_s=1),
    ):
        pass
