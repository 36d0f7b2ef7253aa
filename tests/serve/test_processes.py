import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastchat.errors import UsageError
from fastchat.serve.processes import PidFile, module_of, own_processes


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("python3 -m fastchat.serve.controller", "controller"),
        (
            "/usr/bin/python3.11 -X importtime -m fastchat.serve.model_worker --port 1",
            "model_worker",
        ),
        ("python -u /opt/fastchat/serve/openai_api_server.py", "openai_api_server"),
        ("python fastchat/serve/cli.py", "cli"),
        ("python -m fastchat.serve.monitor.basic_stats", None),
        ("python -m pytest -m fastchat.serve.controller", None),
        ("python -c fastchat.serve.controller", None),
        ("python other.py -m fastchat.serve.controller", None),
        ("vim fastchat/serve/controller.py", None),
        ("grep -m fastchat.serve.controller", None),
        ("sh -c python3 -m fastchat.serve.controller", None),
        ("python", None),
        ("", None),
    ],
)
def test_only_a_python_that_runs_our_module_counts(line: str, module: str | None) -> None:
    assert module_of(line.split()) == module


def test_running_servers_of_this_user_are_found_and_this_process_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "fastchat" / "serve"
    folder.mkdir(parents=True)
    script = folder / "mlx_worker.py"
    script.write_text("import time; time.sleep(3600)")
    with subprocess.Popen([sys.executable, str(script)]) as process:
        try:
            end = time.monotonic() + 120
            while process.pid not in own_processes() and time.monotonic() < end:
                time.sleep(0.02)
            assert own_processes()[process.pid] == "mlx_worker"
            assert os.getpid() not in own_processes()
        finally:
            process.kill()


def test_the_pid_file_gives_back_what_was_written(tmp_path: Path) -> None:
    record = PidFile(tmp_path / "x.pid")
    assert record.pids() == []
    record.write({"controller": 7, "page": 8})
    assert record.pids() == [os.getpid(), 7, 8]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"supervisor": "x", "children": {}}'])
def test_a_broken_pid_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.pid"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"x\.pid is not a file of process numbers"):
        PidFile(path).pids()


def test_a_stale_pid_file_names_no_supervisor(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    path.write_text(json.dumps({"supervisor": 2**22 + 1, "children": {}}))
    assert PidFile(path).supervisor() is None
