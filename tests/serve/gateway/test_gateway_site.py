"""The nginx in front of a site: what it prints, and how a real nginx behaves with it."""

import asyncio
import contextlib
import io
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from live import serving, until
from real_processes import free_port
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from fastchat.errors import UsageError
from fastchat.serve.gateway import __main__ as gateway
from fastchat.serve.gateway.__main__ import SiteSettings, configuration

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="no nginx is installed")


def named(name: str) -> Starlette:
    """A server that says its name and what it was told; streams; waits."""

    async def tell(request: Request) -> JSONResponse:
        return JSONResponse({"name": name, "headers": dict(request.headers)})

    async def stream(request: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"data: first\n\n"
            await asyncio.Event().wait()  # the second piece never comes

        return StreamingResponse(pieces(), media_type="text/event-stream")

    routes = [Route("/stream", stream), Route("/v1/stream", stream)]
    return Starlette(routes=[*routes, Route("/{path:path}", tell, methods=["GET", "POST"])])


@contextlib.asynccontextmanager
async def site(settings: SiteSettings, folder: Path) -> AsyncIterator[None]:
    """A real nginx with that configuration, in a folder of its own."""
    path = folder / "nginx.conf"
    path.write_text(configuration(settings))
    words = [str(NGINX), "-c", str(path), "-p", str(folder), "-e", str(folder / "error.log")]
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    extra = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    path.write_text(path.read_text().replace("http {", "http {\n    access_log off; " + extra, 1))
    checked = subprocess.run([*words, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    with subprocess.Popen([*words, "-g", "daemon off;"], stderr=subprocess.DEVNULL) as process:
        try:
            await until(lambda: _listens(int(settings.port or 0)))
            yield
        finally:
            process.terminate()
            process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 30):
        return True
    return False


def address(url: str) -> str:
    return url.removeprefix("http://")


@pytest.mark.slow
@needs_nginx
async def test_pages_and_apis_are_reached_and_addresses_are_not_believed(tmp_path: Path) -> None:
    async with serving(named("page")) as page, serving(named("api")) as api:
        port = free_port()
        settings = SiteSettings(
            backend=(address(page),), api=(address(api),), port=port, pid_path=tmp_path / "pid"
        )
        async with site(settings, tmp_path), aiohttp.ClientSession() as client:
            base = f"http://127.0.0.1:{port}"
            claimed = {"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6"}
            for path, name in {"/": "page", "/v1/models": "api", "/metrics": "page"}.items():
                async with client.get(base + path, headers=claimed) as reply:
                    told = await reply.json()
                assert told["name"] == name
                assert told["headers"]["x-forwarded-for"] == "127.0.0.1"
                assert told["headers"]["x-real-ip"] == "127.0.0.1"
            async with client.post(
                base + "/v1/x", data=io.BytesIO(bytes(21 * 1024 * 1024))
            ) as reply:
                assert reply.status == 413


@pytest.mark.slow
@needs_nginx
async def test_a_piece_arrives_before_the_answer_ends(tmp_path: Path) -> None:
    async with serving(named("api")) as api:
        port = free_port()
        settings = SiteSettings(
            backend=(address(api),), api=(address(api),), port=port, pid_path=tmp_path / "pid"
        )
        async with site(settings, tmp_path), aiohttp.ClientSession() as client:
            for path in ("/stream", "/v1/stream"):
                async with client.get(f"http://127.0.0.1:{port}{path}") as reply:
                    assert await reply.content.readline() == b"data: first\n"


@pytest.mark.slow
@needs_nginx
async def test_one_address_holds_so_many_connections(tmp_path: Path) -> None:
    async with serving(named("page")) as page:
        port = free_port()
        settings = SiteSettings(
            backend=(address(page),),
            port=port,
            pid_path=tmp_path / "pid",
            connections_per_address=2,
        )
        async with site(settings, tmp_path), aiohttp.ClientSession() as client:
            base = f"http://127.0.0.1:{port}"
            async with client.get(f"{base}/stream") as one, client.get(f"{base}/stream") as two:
                assert (one.status, two.status) == (200, 200)
                async with client.get(base) as third:
                    assert third.status == 429


@pytest.mark.slow
@needs_nginx
async def test_a_dead_page_server_is_passed_over(tmp_path: Path) -> None:
    async with serving(named("page")) as page:
        port = free_port()
        dead = f"127.0.0.1:{free_port()}:5"
        settings = SiteSettings(
            backend=(dead, f"{address(page)}:1"), port=port, pid_path=tmp_path / "pid"
        )
        async with site(settings, tmp_path), aiohttp.ClientSession() as client:
            for _ in range(5):
                async with client.get(f"http://127.0.0.1:{port}/") as reply:
                    assert (await reply.json())["name"] == "page"


@pytest.mark.slow
@needs_nginx
async def test_tls(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl is installed")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*made, *names, "-keyout", key, "-out", cert], check=True, stderr=subprocess.DEVNULL
    )
    async with serving(named("page")) as page:
        port = free_port()
        settings = SiteSettings(
            backend=(address(page),),
            ssl_certificate=cert,
            ssl_certificate_key=key,
            port=port,
            pid_path=tmp_path / "pid",
        )
        trust = ssl.create_default_context(cafile=str(cert))
        async with (
            site(settings, tmp_path),
            aiohttp.ClientSession() as client,
            client.get(f"https://127.0.0.1:{port}/", ssl=trust) as reply,
        ):
            assert (await reply.json())["headers"]["x-forwarded-proto"] == "https"


def test_the_shipped_file_is_the_printed_one() -> None:
    settings = SiteSettings(
        server_name="chat.example.org",
        ssl_certificate=Path("[PATH_TO_SSL_CERT]"),
        ssl_certificate_key=Path("[PATH_TO_PRIVATE_KEY]"),
    )
    shipped = Path(gateway.__file__).with_name("nginx.conf").read_text("utf-8")
    assert shipped == configuration(settings)


def test_weights_stand_in_the_file() -> None:
    text = configuration(SiteSettings(backend=("a:1", "b:2:3", "[::1]:7860")))
    assert "server a:1 max_fails" in text
    assert "server b:2 weight=3" in text
    assert "server [::1]:7860" in text


@pytest.mark.parametrize("text", ["a", "a:0", "a:99999", "a:1:0", "a b:1", "a:1; }", "a:1:x", ""])
def test_no_server_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="is no server"):
        configuration(SiteSettings(backend=(text,)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"ssl_certificate": Path("a")},
        {"connections_per_address": 0},
        {"max_body": "20 m; }"},
        {"server_name": "a; b"},
        {"pid_path": Path("/run/x; }")},
    ],
)
def test_settings_that_nginx_would_misread_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        SiteSettings(**wrong)  # type: ignore[arg-type]


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert gateway.main(["--backend", "localhost:7860:2", "--api", "localhost:8000"]) == 0
    assert "weight=2" in capsys.readouterr().out
    assert gateway.main(["--backend", "nonsense"]) == 2
