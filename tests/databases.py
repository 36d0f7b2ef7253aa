"""Real databases for tests: a SQLite file, and a PostgreSQL server of the test run's own."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

KINDS = ("sqlite", pytest.param("postgresql", marks=pytest.mark.slow))


def server_binaries() -> Path | None:
    """The folder of PostgreSQL's programs, where Debian's package is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    plain = shutil.which("initdb")
    return Path(plain).parent if plain else None


def running_postgresql() -> Iterator[str]:
    """Starts a server in a folder of its own; yields the URL of its first database.

    PostgreSQL refuses to run as root, so it runs as the user `postgres` there.
    """
    binaries = server_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (Debian's package: postgresql)")
    account: dict[str, object] = {}
    folder = Path(tempfile.mkdtemp(prefix="fastchat-postgresql-"))
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        account = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data = folder / "data"
    initialise = [binaries / "initdb", "-D", data, "-A", "trust", "-U", "tester", "--no-sync"]
    subprocess.run(
        [*initialise, "-E", "UTF8", "--locale=C"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=folder,
        **account,  # type: ignore[arg-type]
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {"listen_addresses": "127.0.0.1", "port": port, "fsync": "off"}
    options |= {"unix_socket_directories": folder, "max_connections": 200}
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, *(f"-c{k}={v}" for k, v in options.items())],
            stdout=log,
            stderr=log,
            cwd=folder,
            **account,  # type: ignore[arg-type]
        )
    try:
        _wait_until_ready(binaries, port, server)
        yield f"postgresql://tester@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # at once: SIGTERM waits for clients to leave
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(binaries: Path, port: int, server: subprocess.Popen[bytes]) -> None:
    ask = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    deadline = time.monotonic() + 60
    while subprocess.run(ask, check=False).returncode:
        assert server.poll() is None, "the PostgreSQL server ended"
        assert time.monotonic() < deadline, "the PostgreSQL server did not start"
        time.sleep(0.05)


def new_database(server_url: str) -> str:
    """The URL of a new, empty database on that server."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    return f"{server_url.rsplit('/', 1)[0]}/{name}"
