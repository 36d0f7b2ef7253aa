"""Every route of gateway and worker is closed without a key, however one is sent; what the
servers write can be read by their owner."""

import logging
import os
import re
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fake_endpoint import FakeEndpoint
from in_process import serving

from fastchat import logs
from fastchat.engine.echo import EchoEngine, EchoOptions
from fastchat.serve.adapter_routes import AdapterRoutes
from fastchat.serve.doors.openapi import document
from fastchat.serve.openai_api_server import GatewaySettings, create_app, main
from fastchat.serve.published_worker import published_routes
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings
from fastchat.store.database import Database
from fastchat.store.keys import KeyStore

WRONG = ("wrong", "", "k", "K1", "k1x", "x" * 5000, "' OR 1=1 --", "schl\u00fcssel", "*", "k1,k2")
OPEN = {"/health"}
NO_ROUTES = ("/", "/x", "/docs/", "/redoc", "/refresh_all_workers", "/worker_generate_stream", "//")


def sent(key: str) -> list[dict[str, str]]:
    """The ways to send a key."""
    text = key.encode().decode("latin-1")
    return [{"authorization": f"Bearer {text}"}, {"x-api-key": text}, {"api-key": text}]


async def status_of(session: aiohttp.ClientSession, method: str, url: str, **more: Any) -> int:
    async with session.request(method, url, data=b"{}", **more) as reply:
        if reply.status == 401:
            error = (await reply.json())["error"]
            assert error["message"] and "type" in error
        return reply.status


def operations() -> list[tuple[str, str]]:
    """Method and path of every route in the gateway's own document, and of those that hide."""
    found = [
        (method.upper(), re.sub(r"\{\w+\}", "x", path))
        for path, methods in document(has_keys=True)["paths"].items()
        for method in methods
        if path not in OPEN
    ]
    assert len(found) > 30
    return found + [("GET", "/docs"), ("GET", "/openapi.json")] + [("GET", p) for p in NO_ROUTES]


@pytest.mark.slow
async def test_every_route_of_the_gateway_is_closed_to_every_wrong_key() -> None:
    async with FakeEndpoint("m") as endpoint:
        settings = GatewaySettings(endpoint=(endpoint.url,), api_keys=("k1", "k2"))
        async with (
            serving(create_app(settings)) as url,
            aiohttp.ClientSession(skip_auto_headers=["User-Agent"]) as session,
        ):
            for method, path in operations():
                assert await status_of(session, method, url + path) == 401, (method, path)
                query = {"api_key": "k1", "key": "k1", "authorization": "Bearer k1"}
                assert await status_of(session, method, url + path, params=query) == 401
                for headers in (h for key in WRONG for h in sent(key)):
                    status = await status_of(session, method, url + path, headers=headers)
                    assert status == 401, (method, path, headers)
                for headers in sent("k1"):
                    status = await status_of(session, method, url + path, headers=headers)
                    assert status != 401, (method, path, headers)
            assert await status_of(session, "GET", f"{url}/health") == 200


@pytest.mark.slow
async def test_every_route_of_a_worker_with_a_token_is_closed(tmp_path: Path) -> None:
    adapters = AdapterRoutes(str(tmp_path))

    def routes(worker: Worker) -> dict[str, Any]:
        return {**published_routes(worker), **adapters.routes(worker)}

    settings = WorkerSettings(worker_token="t1")
    worker = Worker({"m": EchoEngine(EchoOptions())}, settings, extra_routes=routes)
    async with serving(worker.app) as url, aiohttp.ClientSession() as session:
        found = [(route.path, route.methods) for route in worker.app.routes]  # type: ignore[attr-defined]
        assert len(found) > 15
        for path, methods in found:
            path = path.replace("{name:path}", "m")
            for method in sorted(methods - {"HEAD"}):
                for headers in [{}, *sent("wrong"), *sent("")]:
                    status = await status_of(session, method, url + path, headers=headers)
                    assert (status == 401) == (path not in OPEN), (method, path)
    await worker.stop()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_database_of_keys_and_a_log_are_their_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0)
    try:
        database = Database(str(tmp_path / "keys.db"))
        KeyStore(database).create("x", now=1.0)
        made = sorted(tmp_path.glob("keys.db*"))
        assert [path.name for path in made] == ["keys.db", "keys.db-shm", "keys.db-wal"]
        assert {mode(path) for path in made} == {0o600}
        database.close()
        (tmp_path / "keys.db").chmod(0o640)  # the operator's choice stays
        again = Database(str(tmp_path / "keys.db"))
        assert len(KeyStore(again).all()) == 1
        assert mode(tmp_path / "keys.db") == 0o640
        again.close()
        monkeypatch.setenv("LOGDIR", str(tmp_path / "logs"))
        logs.setup("some.log")
        logging.getLogger("fastchat").warning("something")
        assert mode(tmp_path / "logs" / "some.log") == 0o640
    finally:
        os.umask(before)
        monkeypatch.setenv("LOGDIR", "")
        logs.setup()


@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_gateway_that_is_open_to_a_network_warns_once(
    host: str, warns: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOGDIR", "")
    monkeypatch.setattr("fastchat.serve.openai_api_server.serve", lambda *_: None)
    assert main(["--host", host, "--endpoint", "http://127.0.0.1:1"]) == 0
    assert capsys.readouterr().err.count("without API keys: open to everyone") == warns
    assert main(["--host", host, "--endpoint", "http://127.0.0.1:1", "--api-keys", "k"]) == 0
    assert "open to everyone" not in capsys.readouterr().err
