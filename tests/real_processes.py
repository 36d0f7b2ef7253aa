"""Real server processes for tests: start, wait until they answer, end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

STARTUP_LIMIT_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_answers(url: str, processes: list[subprocess.Popen[bytes]]) -> None:
    """Returns when `url` answers 200; fails when a process ends or the limit passes."""
    end = time.monotonic() + STARTUP_LIMIT_S
    while time.monotonic() < end:
        for process in processes:
            assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    pytest.fail(f"{url} did not answer within {STARTUP_LIMIT_S} s")


@contextlib.contextmanager
def running(
    *modules_and_flags: list[str], log_path: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Starts `python -m MODULE FLAGS...` for each list; ends them all."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes: list[subprocess.Popen[bytes]] = []
    with open(log_path, "ab") as log:
        try:
            for command in modules_and_flags:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", *command], env=env, stdout=log, stderr=log
                    )
                )
            yield processes
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                try:
                    process.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """Addresses of the running processes, without a trailing slash."""

    controller_url: str
    worker_url: str
    gateway_url: str
    model: str = "vicuna-tiny"
