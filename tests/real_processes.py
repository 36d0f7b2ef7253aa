"""Real server processes for tests: start, wait until they answer, end."""

import contextlib
import errno
import http.client
import itertools
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

STARTUP_LIMIT_S = 300
END_LIMIT_S = 90

# Below those that the system gives to connections, which come and go at any time.
_PORTS = range(22_000, 32_000)
_candidates = itertools.cycle(_PORTS)
for _ in range(os.getpid() * 61 % len(_PORTS)):  # another place for each process
    next(_candidates)
_claims: list[int] = []


def free_port() -> int:
    """A port of this machine on which nothing listens and which is given to no other test.

    A claim on it, a UDP socket of the same number, is held while this process lives: between
    this and the moment when a server binds the port, nobody else is given it.

    Raises:
        RuntimeError: all are taken.
    """
    for port in itertools.islice(_candidates, len(_PORTS)):
        if (claim := _claimed(port)) is not None:
            _claims.append(claim)
            return port
    raise RuntimeError(f"no port from {_PORTS.start} to {_PORTS.stop - 1} is free")


def _claimed(port: int) -> int | None:
    """The file of a claim on `port`; None when it is claimed or used."""
    claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        claim.bind(("127.0.0.1", port))
    except OSError:
        claim.close()
        return None
    if _is_used(socket.AF_INET, "127.0.0.1", port) or _is_used(socket.AF_INET6, "::1", port):
        claim.close()
        return None
    return claim.detach()


def _is_used(family: socket.AddressFamily, host: str, port: int) -> bool:
    try:
        with socket.socket(family) as probe:
            probe.bind((host, port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE  # else there is no such address here
    return False


def wait_until_answers(url: str, processes: list[subprocess.Popen[bytes]]) -> None:
    """Returns when `url` answers 200; fails when a process ends or the limit passes."""
    end = time.monotonic() + STARTUP_LIMIT_S
    while time.monotonic() < end:
        for process in processes:
            assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(url, timeout=30),
        ):
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
                    process.wait(timeout=END_LIMIT_S)
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
