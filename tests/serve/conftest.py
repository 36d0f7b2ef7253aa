"""A platform started by launch_all_serve, with the echo engine behind it."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from real_processes import free_port


@dataclass(slots=True, kw_only=True)
class Launched:
    """A running launch_all_serve."""

    process: subprocess.Popen[str]
    urls: dict[str, str]
    log_dir: Path

    def said(self, text: str) -> list[str]:
        """What it printed up to the line that begins with `text`."""
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith(text):
                return lines
        raise AssertionError(f"it ended without {text!r}: {lines}")

    def pids(self) -> dict[str, int]:
        """The children by name, from the pid file."""
        return json.loads((self.log_dir / "launch_all_serve.pid").read_text())["children"]


def launch(log_dir: Path, *flags: str) -> Launched:
    """Starts a platform without a page on free ports."""
    ports = {name: free_port() for name in ("controller", "worker", "server")}
    places = [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "fastchat.serve.launch_all_serve", "--no-web", *places),
            *("--model-path", "echo:", "--log-dir", str(log_dir), *flags),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "LOGDIR"},
    )
    urls = {name: f"http://localhost:{port}" for name, port in ports.items()}
    return Launched(process=process, urls=urls, log_dir=log_dir)


def end(launched: Launched) -> None:
    """Ends it, and what it may have left behind."""
    pids: list[int] = []
    with contextlib.suppress(OSError):  # it may be at its very begin or end
        pids += launched.pids().values()
    launched.process.terminate()
    try:
        launched.process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        for pid in [*pids, launched.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        launched.process.communicate()


@pytest.fixture
def one_day() -> None:
    """The UTC day, by which use is counted, does not end within the test: in its last minutes
    this waits for the next."""
    left_s = 86_400 - time.time() % 86_400
    if left_s < 120:
        time.sleep(left_s + 1)


@pytest.fixture(scope="session")
def echo_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of controller, worker and server."""
    launched = launch(tmp_path_factory.mktemp("echo"))
    try:
        launched.said("Ctrl-C")
        yield launched.urls
    finally:
        end(launched)


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    """A platform of one's own, to be harmed."""
    result = launch(tmp_path / "logs", "--api-keys", "secret,other")
    try:
        yield result
    finally:
        end(result)
