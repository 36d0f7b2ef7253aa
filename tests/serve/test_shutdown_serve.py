import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastchat.serve import shutdown_serve
from fastchat.serve.shutdown_serve import main

SLEEPER = "import time; print('up', flush=True); time.sleep(3600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER


@pytest.fixture
def servers(tmp_path: Path) -> Iterator["Servers"]:
    result = Servers(tmp_path)
    yield result
    for process in result.processes.values():
        process.kill()
        process.communicate()


class Servers:
    """Processes that look like ours, and a pid file, so that no other process is in reach."""

    def __init__(self, folder: Path) -> None:
        self.scripts = folder / "fastchat" / "serve"
        self.scripts.mkdir(parents=True)
        self.pid_file = folder / "launch_all_serve.pid"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, module: str, code: str = SLEEPER) -> None:
        script = self.scripts / f"{module}.py"
        script.write_text(code)
        process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        self.processes[module] = process
        pids = {name: process.pid for name, process in self.processes.items()}
        supervisor = pids.pop("launch_all_serve", process.pid)
        self.pid_file.write_text(json.dumps({"supervisor": supervisor, "children": pids}))

    def shut_down(self, *flags: str) -> int:
        """With time to end for those who are told to, however slow the machine is."""
        return main(["--pid-file", str(self.pid_file), "--grace-s", "180", *flags])

    def status(self, module: str) -> int:
        return self.processes[module].wait(timeout=180)


def test_all_ends_every_recorded_server(
    servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("launch_all_serve", "controller", "model_worker"):
        servers.start(module)
    assert servers.shut_down("--down", "all") == 0
    for module in servers.processes:
        assert servers.status(module) == -signal.SIGTERM
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["launch_all_serve", "model_worker", "controller"]


def test_one_role_leaves_the_others_alone(servers: Servers) -> None:
    servers.start("controller")
    servers.start("model_worker")
    assert servers.shut_down("--down", "model_worker") == 0
    assert servers.status("model_worker") == -signal.SIGTERM
    assert servers.processes["controller"].poll() is None


@pytest.mark.slow
def test_a_process_that_ignores_the_request_is_killed_after_the_grace(
    servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    servers.start("controller", STUBBORN)
    assert servers.shut_down("--grace-s", "0.2") == 0
    assert servers.status("controller") == -signal.SIGKILL
    assert "was killed" in capsys.readouterr().out


def test_who_has_ended_is_seen_however_late_the_look_is(
    servers: Servers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that shuts down stands still between its request and its first look."""
    servers.start("controller")
    pid = servers.processes["controller"].pid
    looks = iter([{pid: "controller"}])
    monkeypatch.setattr(shutdown_serve, "own_processes", lambda: next(looks, {}))
    monkeypatch.setattr(shutdown_serve.time, "monotonic", itertools.count(0, 10_000).__next__)
    assert servers.shut_down("--down", "controller") == 0
    assert capsys.readouterr().out == f"controller (process {pid}) ended.\n"


def test_a_recorded_number_that_is_no_server_of_ours_is_left_alone(servers: Servers) -> None:
    servers.start("someone_else")
    assert servers.shut_down() == 0
    assert servers.processes["someone_else"].poll() is None


def test_nothing_running_is_no_failure(
    servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    assert servers.shut_down() == 0
    assert capsys.readouterr().out == "No fastchat server is running.\n"


def test_an_unknown_role_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--down", "everything"])
    assert caught.value.code == 2
