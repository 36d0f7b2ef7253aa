"""The download from a hub made on the spot, by the hub's own client, in a process of its own."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import pytest

from fastchat.llm_judge import download_mt_bench_pregenerated as download

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "data/mt_bench/question.jsonl": b'{"question_id": 81, "category": "writing", "turns": ["t"]}\n',
    "data/mt_bench/model_answer/m.jsonl": b"{}\n",
    "data/mt_bench/model_judgment/gpt-4_single.jsonl": b"{}\n",
    "app.py": b"print()",
}


class Hub(BaseHTTPRequestHandler):
    """Lists the files of one space and gives them out."""

    asked: list[str]

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        Hub.asked.append(path)
        if path.startswith(f"/api/spaces/{download.SPACE}"):
            siblings = [{"rfilename": name} for name in FILES]
            tree = [
                {"type": "file", "path": n, "size": len(d), "oid": "x"} for n, d in FILES.items()
            ]
            info = {"id": download.SPACE, "sha": COMMIT, "siblings": siblings}
            body, head = orjson.dumps(tree if "/tree/" in path else info), {}
        else:
            body = FILES[path.split("/resolve/main/")[1].replace("%2F", "/")]
            head = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self.send_response(200)
        for name, value in {**head, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


# The client tries five times, and waits some 20 s in all between its tries.
AT_ONCE = """
import runpy, sys, time
time.sleep = lambda seconds: None
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def fetch(here: Path, *flags: str, offline: str = "0") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_HUB_OFFLINE": offline, "HF_HOME": str(here / "cache")}
    command = [sys.executable, "-c", AT_ONCE, download.__name__, *flags]
    return subprocess.run(command, env=env, cwd=here, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_files_come_from_the_hub_once(here: Path, hub: str) -> None:
    done = fetch(here, "--base-url", hub)
    assert done.returncode == 0, done.stderr
    assert "3 files fetched, 0 were there" in done.stdout
    for name, data in FILES.items():
        assert (here / name).exists() == name.startswith("data/")
        assert not name.startswith("data/") or (here / name).read_bytes() == data
    (here / "data/mt_bench/question.jsonl").write_text("mine")
    Hub.asked.clear()
    done = fetch(here, "--base-url", hub, "--only", "question")
    assert "0 files fetched, 1 were there" in done.stdout
    assert not any("resolve" in path for path in Hub.asked)
    fetch(here, "--base-url", hub, "--only", "question", "--force")
    assert (here / "data/mt_bench/question.jsonl").read_bytes() == FILES[
        "data/mt_bench/question.jsonl"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_it_says_what_to_do(here: Path, offline: str) -> None:
    done = fetch(here, "--base-url", "http://127.0.0.1:9", offline=offline)
    assert done.returncode == 1
    assert "http://127.0.0.1:9 could not be asked for the list of files" in done.stderr
    assert "fastchat_bench" in done.stderr and "Traceback" not in done.stderr


def test_only_the_benchmarks_own_files_are_wanted() -> None:
    names = [*FILES, "data/mt_bench/../x.jsonl", "data/other/question.jsonl"]
    assert download.wanted(names, "all") == sorted(n for n in FILES if n.startswith("data/"))
    assert download.wanted(names, "model_answer") == ["data/mt_bench/model_answer/m.jsonl"]
