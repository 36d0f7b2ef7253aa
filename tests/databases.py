"""Real databases for tests: a SQLite file, and a PostgreSQL server of the test run's own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_processes import free_port

START_LIMIT_S = 300
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

    PostgreSQL refuses to run as root, so it runs as the user `postgres` there, in a folder which
    that user can reach wherever root keeps its own.
    """
    binaries = server_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (Debian's package: postgresql)")
    account: dict[str, object] = {}
    is_root = os.geteuid() == 0
    place = "/tmp" if is_root else None
    folder = Path(tempfile.mkdtemp(prefix="fastchat-postgresql-", dir=place))
    if is_root:
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
    port = free_port()
    options = {"listen_addresses": "127.0.0.1", "port": port, "fsync": "off"}
    options |= {"unix_socket_directories": folder, "max_connections": 200}
    options["autovacuum"] = "off"  # it may hold the template of new databases for a while
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, *(f"-c{k}={v}" for k, v in options.items())],
            stdout=log,
            stderr=log,
            cwd=folder,
            **account,  # type: ignore[arg-type]
        )
    try:
        _wait_until_ready(binaries, folder, port, server)
        yield f"postgresql://tester@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # at once: SIGTERM waits for clients to leave
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(
    binaries: Path, folder: Path, port: int, server: subprocess.Popen[bytes]
) -> None:
    # By the socket in its own folder, at which no other server can answer.
    ask = [binaries / "pg_isready", "-q", "-h", folder, "-p", str(port)]
    deadline = time.monotonic() + START_LIMIT_S
    while subprocess.run(ask, check=False).returncode:
        said = (folder / "log").read_text("utf-8", "replace")[-2000:]
        assert server.poll() is None, f"the PostgreSQL server ended: {said}"
        assert time.monotonic() < deadline, f"the PostgreSQL server did not start: {said}"
        time.sleep(0.05)


def new_database(server_url: str) -> str:
    """The URL of a new, empty database on that server."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    return f"{server_url.rsplit('/', 1)[0]}/{name}"
