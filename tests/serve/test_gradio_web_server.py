"""The command that serves the page."""

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import httpx
import pytest
from live import LIMIT_S
from starlette.responses import PlainTextResponse

from fastchat.errors import UsageError
from fastchat.serve import asgi, gradio_web_server
from fastchat.serve.gradio_web_server import (
    WebSettings,
    bind_page,
    main,
    read_page_settings,
    serve_guarded,
)
from fastchat.settings import ServerSettings, parse
from fastchat.web.security import Guard


def settings(*argv: str) -> WebSettings:
    return parse(WebSettings, argv, prog="web")


def test_help_answers_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from fastchat.serve import gradio_web_server as web\n"
        "try: web.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'gradio', 'openai', 'fastapi', 'torch', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr
    assert "--controller-url" in done.stdout


def test_published_flags_and_their_short_forms() -> None:
    given = settings("--controller", "http://c:1", "--concurrency", "3", "--show-terms", "--share")
    assert given.controller_url == "http://c:1"
    assert (given.concurrency_count, given.show_terms_of_use, given.share) == (3, True, True)
    assert settings("--model_list_mode", "once").model_list_mode == "once"
    default = settings()
    assert (default.host, default.port) == ("127.0.0.1", None)
    assert default.controller_url == "http://localhost:21001"


def test_addresses_and_limits_come_from_the_environment_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTCHAT_API_URL", "http://gateway:8000/v1")
    monkeypatch.setenv("FASTCHAT_API_KEY", "secret")
    monkeypatch.setenv("FASTCHAT_INPUT_CHAR_LEN_LIMIT", "7")
    monkeypatch.setenv("FASTCHAT_WORKER_API_TIMEOUT", "8")
    page = read_page_settings(settings())
    assert (page.source.api_url, page.source.api_key) == ("http://gateway:8000/v1", "secret")
    assert (page.message_limit, page.source.timeout_s) == (7, 8.0)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--moderate", "--moderation-file", "none"], "none"),
        (["--register", "nowhere.json"], "endpoint file nowhere.json cannot be read"),
        (["--register", "f.json", "--api-url", "http://h/v1"], "exclude each other"),
        (["--use-remote-storage"], "pictures, which this page does not take"),
        (["--api-url", "localhost:8000"], "--api-url 'localhost:8000'"),
        (["--controller-url", "ftp://c"], "--controller-url 'ftp://c'"),
        (["--concurrency-count", "0"], "--concurrency-count 0"),
        (["--gradio-auth-path", "/nowhere"], "--gradio-auth-path /nowhere"),
    ],
)
def test_what_cannot_work_is_one_clear_line(
    argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert complaint in lines[0]


def test_names_are_checked_on_a_local_page_only() -> None:
    assert read_page_settings(settings()).any_host is False
    assert read_page_settings(settings("--host", "localhost")).any_host is False
    assert read_page_settings(settings("--host", "0.0.0.0")).any_host is True
    assert read_page_settings(settings("--share")).any_host is True
    assert read_page_settings(settings("--allowed-hosts", "a.b,c")).hosts == ("a.b", "c")


def test_no_controller_is_asked_when_its_address_is_empty() -> None:
    assert read_page_settings(settings("--controller-url", "")).source.controller_url == ""


def test_the_first_free_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(gradio_web_server, "FIRST_PORT", port)
        monkeypatch.setattr(gradio_web_server, "LAST_PORT", port + 20)
        sockets = bind_page("127.0.0.1", None)
        assert port < sockets[0].getsockname()[1] <= port + 20
        for found in sockets:
            found.close()
        with pytest.raises(UsageError, match=str(port)):
            bind_page("127.0.0.1", port)


@pytest.mark.slow
def test_the_command_serves_the_page_and_ends_at_once(root: Path) -> None:
    argv = ["--port", "0", "--api-url", "http://127.0.0.1:9/v1"]
    process = subprocess.Popen(
        [sys.executable, "fastchat/serve/gradio_web_server.py", *argv],
        cwd=root,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stderr is not None
    try:
        address = ""
        for line in process.stderr:
            if found := re.search(r"Uvicorn running on (http://127\.0\.0\.1:\d+)", line):
                address = found[1]
                break
        with urllib.request.urlopen(address, timeout=LIMIT_S) as reply:
            assert b'"title":"FastChat"' in reply.read()
        beat = urllib.request.urlopen(f"{address}/gradio_api/heartbeat/abc", timeout=LIMIT_S)
        assert beat.readline().startswith(b"data:"), "an open page does not hold up the end"
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
        told = process.stderr.read()
        assert "Traceback" not in told and "timeout graceful shutdown" not in told
        beat.close()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize("tunnel", ["opens", "fails", "hangs"])
def test_a_shared_page_is_served_whatever_becomes_of_its_tunnel(
    tunnel: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The tunnel itself is a program that Gradio fetches; what we give it, and do with it."""
    from gradio import networking

    tunnelled: list[tuple[object, ...]] = []
    released = threading.Event()

    def open_one(*about: object) -> str:
        tunnelled.append(about)
        if tunnel == "fails":
            raise OSError("no such host")
        if tunnel == "hangs":
            released.wait(LIMIT_S)
        return "https://abc.gradio.live"

    monkeypatch.setattr(networking, "setup_tunnel", open_one)
    caplog.set_level(logging.INFO)
    said = {
        "opens": "Running on public URL: https://abc.gradio.live",
        "fails": "no public address could be had: no such host",
        "hangs": "Uvicorn running",
    }[tunnel]

    async def served() -> int:
        sockets = asgi.bind("127.0.0.1", 0)
        port = sockets[0].getsockname()[1]
        guard = Guard(PlainTextResponse("the page"), hosts=(), any_host=True)
        serving = asyncio.create_task(serve_guarded(guard, ServerSettings(), sockets, share=True))
        async with httpx.AsyncClient(trust_env=False, timeout=LIMIT_S) as http:
            while said not in caplog.text or not tunnelled:
                assert not serving.done()
                await asyncio.sleep(0.01)
            reply = await http.get(f"http://127.0.0.1:{port}/")
            assert reply.text == "the page"
            public = await http.get(
                f"http://127.0.0.1:{port}/", headers={"host": "abc.gradio.live"}
            )
            assert public.text == "the page", "a shared page is reached under a name of theirs"
        signal.raise_signal(signal.SIGTERM)
        await serving
        return port

    port = asyncio.run(served())
    released.set()
    assert [about[:2] for about in tunnelled] == [("127.0.0.1", port)]


def test_only_a_shared_page_takes_names_that_nobody_told() -> None:
    assert read_page_settings(settings("--share")).any_host
    assert not read_page_settings(settings()).any_host
