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
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

STARTUP_LIMIT_S = 300
END_LIMIT_S = 90

# Below those that the system gives to connections, which come and go at any time.
_FIRST_PORT, _N_BLOCKS, _PORTS_A_BLOCK = 22_000, 100, 100
_claims: list[int] = []


def free_port() -> int:
    """A port of this machine on which nothing listens and which no other process of tests gives.

    Between this and the moment when a server binds the port, nobody else takes it.

    Raises:
        RuntimeError: other processes have claimed them all.
    """
    places = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
    with _turn:
        for port in _own_ports:
            if not any(_is_used(family, host, port) for family, host in places):
                return port
    raise RuntimeError("all ports are claimed by other tests")


def _ports_of_claims() -> Iterator[int]:
    """Ports by the block, each claimed while this process lives; in the end, the same again."""
    own: list[int] = []
    for i in range(_N_BLOCKS):
        number = (os.getpid() * 37 + i) % _N_BLOCKS  # another place for each process
        first = _FIRST_PORT + number * _PORTS_A_BLOCK
        ports = range(first, first + _PORTS_A_BLOCK)
        if (claim := _claimed(ports[0])) is not None:
            _claims.append(claim)
            own += ports
            yield from ports
    yield from itertools.cycle(own)


def _claimed(port: int) -> int | None:
    """The file of a UDP socket of this number, which says whose block begins there; None where
    it is another's."""
    claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        claim.bind(("127.0.0.1", port))
    except OSError:
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


_own_ports = _ports_of_claims()
_turn = threading.Lock()  # guards the ports, which tests may want in several threads


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
