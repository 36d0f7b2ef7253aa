"""The command that makes and revokes keys."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from real_processes import free_port, running, wait_until_answers

from fastchat.serve import keys
from fastchat.serve.openai_api_server import GatewaySettings
from fastchat.settings import parse
from fastchat.store.database import Database
from fastchat.store.keys import KeyStore, digest_of


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = keys.main(words)
    said = capsys.readouterr()
    return status, said.out, said.err


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    status, out, _ = run(capsys, *words, "--json")
    assert status == 0
    return json.loads(out)


@pytest.fixture
def url(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FASTCHAT_KEYS_DATABASE_URL", database_url)
    return database_url


@pytest.mark.slow
def test_a_key_is_printed_once(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "create", "--name", "data team", "--models", "vicuna-*,m")
    text = out.strip()
    assert status == 0 and text.startswith("fc-") and text not in err
    database = Database(url)
    key = KeyStore(database).with_digest(digest_of(text.encode()))
    database.close()
    assert key is not None and key.models == ("vicuna-*", "m")
    for words in (["list"], ["list", "--all"], ["show", "data team"], ["usage"]):
        for more in ([], ["--json"]):
            status, out, err = run(capsys, *words, *more)
            assert status == 0 and text[10:] not in out + err


def test_limits_are_set_changed_and_taken_away(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--requests-per-minute", "3", "--tokens-per-day", "9", "--expires-days", "2"]
    made = run_json(capsys, "create", "--name", "x", *words)
    assert (made["requests_per_minute"], made["tokens_per_day"]) == (3, 9)
    assert made["expires_at"] - made["created_at"] == pytest.approx(2 * 86400)
    more = ["--tokens-per-day", "-1", "--requests-per-day", "0", "--expires-days", "-1"]
    changed = run_json(capsys, "update", made["id"], *more, "--models", "m", "--name", "y")
    assert changed["tokens_per_day"] is None and changed["requests_per_day"] == 0
    assert changed["requests_per_minute"] == 3 and changed["expires_at"] is None
    assert (changed["models"], changed["name"]) == (["m"], "y")
    assert run_json(capsys, "update", "y", "--models", "*")["models"] == []
    assert run_json(capsys, "show", "y")["today"] == {"requests": 0, "tokens": 0}


@pytest.mark.slow
def test_a_revoked_key_is_listed_only_among_all(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_json(capsys, "create", "--name", "x")
    revoked = run_json(capsys, "revoke", "x")
    assert revoked["revoked_at"] is not None
    assert run_json(capsys, "revoke", "x") == revoked
    assert run_json(capsys, "list") == []
    assert [key["name"] for key in run_json(capsys, "list", "--all")] == ["x"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage:"),
        (["destroy"], "destroy"),
        (["revoke"], "Name a key"),
        (["revoke", "nobody"], "nobody"),
        (["create"], "name"),
        (["create", "--name", "x", "--tokens-per-minute", "-5"], "--tokens-per-minute"),
        (["create", "--name", "x", "--expires-days", "0"], "--expires-days"),
        (["usage", "--days", "0"], "--days"),
        (["list", "--database-url", "mysql://u:secret@h/d"], "mysql"),
    ],
)
def test_mistakes_are_told(
    url: str, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    status, out, err = run(capsys, *words)
    assert status == 2
    assert said in out + err and "secret" not in out + err


def test_the_documents_lines_run(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("README.md", "docs/api.md"):
        text = (root / name).read_text("utf-8")
        lines = re.findall(r"^python3 -m fastchat\.serve\.keys (.*)$", text, re.MULTILINE)
        assert lines
        for line in lines:
            assert run(capsys, *shlex.split(line))[0] == 0, line
    assert {path.name for path in tmp_path.glob("*.db")} == {"keys.db", "fastchat.db"}


def test_the_documents_lines_for_the_gateway_are_understood(root: Path) -> None:
    text = (root / "README.md").read_text("utf-8")
    lines = re.findall(r"^python3 -m fastchat\.serve\.openai_api_server(.*)$", text, re.MULTILINE)
    parsed = [parse(GatewaySettings, shlex.split(line)) for line in lines]
    given = [s for s in parsed if s.database_url]
    assert [str(s.register_api_endpoint_file) for s in given] == ["endpoints.json"]


@pytest.mark.slow
@pytest.mark.usefixtures("one_day")
def test_use_survives_a_kill_of_the_gateway(tmp_path: Path) -> None:
    """Keys made by the command, a gateway killed in the middle, and the day's quota afterwards."""
    database = str(tmp_path / "keys.db")
    worker, server = free_port(), free_port()
    worker_url, server_url = (f"http://127.0.0.1:{port}" for port in (worker, server))
    command = [sys.executable, "-m", "fastchat.serve.keys", "create", "--name", "x"]
    command += ["--database-url", database, "--requests-per-day", "5"]
    key = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    worker_flags = ["--model-path", "echo:", "--model-names", "m", "--no-register"]
    worker_line = ["fastchat.serve.model_worker", *worker_flags, "--port", str(worker)]
    gateway_line = ["fastchat.serve.openai_api_server", "--endpoint", worker_url]
    gateway_line += ["--port", str(server), "--database-url", database]
    log_path = tmp_path / "log"
    with running([*worker_line, "--host", "127.0.0.1"], log_path=log_path) as first:
        wait_until_answers(worker_url + "/health", first)
        with running([*gateway_line, "--host", "127.0.0.1"], log_path=log_path) as second:
            wait_until_answers(server_url + "/health", second)
            while ask(server_url, key) == 503:  # it has not asked the worker yet
                pass
            assert [ask(server_url, key) for _ in range(2)] == [200, 200]
            while used(database) < 3:
                pass
            os.kill(second[0].pid, signal.SIGKILL)
            second[0].wait()
        with running([*gateway_line, "--host", "127.0.0.1"], log_path=log_path) as third:
            wait_until_answers(server_url + "/health", third)
            while (status := ask(server_url, key)) == 503:
                pass
            assert [status, ask(server_url, key), ask(server_url, key)] == [200, 200, 429]
    assert used(database) == 5
    assert key.removeprefix("fc-")[:8] not in log_path.read_text()


def ask(url: str, key: str) -> int:
    body = {"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": "hi there"}]}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), headers
    )
    try:
        with urllib.request.urlopen(request, timeout=300) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def used(database: str) -> int:
    """Requests in the store, as the command tells them."""
    command = [sys.executable, "-m", "fastchat.serve.keys", "usage", "--json"]
    done = subprocess.run(
        [*command, "--database-url", database], capture_output=True, text=True, check=True
    )
    return sum(row["requests"] for row in json.loads(done.stdout))
