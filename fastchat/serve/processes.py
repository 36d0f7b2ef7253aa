"""Which server processes of ours run: by command line, and by the supervisor's own record.

A process counts when it belongs to this user and Python runs one of our server modules in it:
`python -m fastchat.serve.controller`, or the module's file by its path. A word in some other
command line never matches.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastchat.errors import UsageError

SUPERVISOR = "launch_all_serve"
# The supervisor comes first: it would restart what is ended under it, and it ends its own.
SERVERS = (
    SUPERVISOR,
    "gradio_web_server",
    "gradio_web_server_multi",
    "openai_api_server",
    "model_worker",
    "multi_model_worker",
    "vllm_worker",
    "sglang_worker",
    "lightllm_worker",
    "dashinfer_worker",
    "mlx_worker",
    "llamacpp_worker",
    "huggingface_api_worker",
    "call_monitor",
    "controller",
)


def module_of(argv: Sequence[str]) -> str | None:
    """The module of `fastchat.serve` that this command line makes Python run, if it is one."""
    if not argv or not Path(argv[0]).name.startswith(("python", "pypy")):
        return None
    words = iter(argv[1:])
    for word in words:
        if word == "-m":
            name = next(words, "")
            prefix, _, module = name.rpartition(".")
            return module if prefix == "fastchat.serve" else None
        if word in ("-X", "-W"):
            next(words, None)
        elif not word.startswith("-"):
            path = Path(word)
            return path.stem if path.parts[-3:-1] == ("fastchat", "serve") else None
        elif word == "-c":
            return None
    return None


def own_processes() -> dict[int, str]:
    """Our modules by process id, of this user, without this process."""
    lines = _proc_command_lines() if Path("/proc/self/cmdline").exists() else _ps_command_lines()
    found = {pid: module_of(argv) for pid, argv in lines if pid != os.getpid()}
    return {pid: module for pid, module in found.items() if module in SERVERS}


@contextlib.contextmanager
def pid_file(path: Path) -> Iterator["PidFile"]:
    """The file that names the running processes, for as long as they run.

    Raises:
        UsageError: another supervisor uses it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    record = PidFile(path)
    if (pid := record.supervisor()) is not None:
        raise UsageError(
            f"{path} says that process {pid} already runs a platform from this folder; end it "
            "by python3 -m fastchat.serve.shutdown_serve, or name another folder by --log-dir."
        )
    record.write({})
    try:
        yield record
    finally:
        path.unlink(missing_ok=True)


class PidFile:
    """`{"supervisor": pid, "children": {name: pid}}` in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, children: dict[str, int]) -> None:
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps({"supervisor": os.getpid(), "children": children}) + "\n")
        draft.replace(self.path)

    def pids(self) -> list[int]:
        """The recorded processes, the supervisor first; whether they still run is not checked."""
        try:
            record = json.loads(self.path.read_text("utf-8"))
            return [int(record["supervisor"]), *map(int, record["children"].values())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(f"{self.path} is not a file of process numbers; remove it.") from None

    def supervisor(self) -> int | None:
        """The recorded supervisor if it lives."""
        return next(
            (
                pid
                for pid in self.pids()[:1]
                if pid != os.getpid() and own_processes().get(pid) == SUPERVISOR
            ),
            None,
        )


def _proc_command_lines() -> list[tuple[int, list[str]]]:
    """Process id and arguments of every process of this user, from /proc."""
    found: list[tuple[int, list[str]]] = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if folder.stat().st_uid == os.getuid():
                words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
                found.append((int(folder.name), words[:-1]))
        except OSError:
            continue  # It ended while we looked.
    return found


def _ps_command_lines() -> list[tuple[int, list[str]]]:
    """The same from `ps`, where there is no /proc. Arguments with blanks come apart."""
    command = ["ps", "-x", "-ww", "-U", str(os.getuid()), "-o", "pid=,args="]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    rows = (line.split() for line in done.stdout.splitlines())
    return [(int(row[0]), row[1:]) for row in rows if row]
