"""What the benchmarks share: servers as child processes, the load generator, tables."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(os.environ.get("FASTCHAT_SHARED", ROOT.parent / "shared")) / "tools"
"""The load generator, the fake server and the model maker; `--tools` names another folder."""


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process that is ended, with its children, when the block is left."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        ready_url: str,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 180.0,
        log_path: Path | None = None,
    ) -> None:
        self.command = list(command)
        self.ready_url = ready_url
        self.env = {**os.environ, **(env or {})}
        self.timeout_s = timeout_s
        self.log_path = log_path or Path(os.devnull)
        self.ready_s = 0.0

    def __enter__(self) -> "Server":
        started = time.perf_counter()
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                self.command, env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self.wait_ready(started)
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_ready(self, started: float) -> None:
        """Polls the address until it answers 200."""
        while time.perf_counter() - started < self.timeout_s:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.command[:4]} ended with status {self.process.returncode}")
            try:
                with urllib.request.urlopen(self.ready_url, timeout=2):
                    self.ready_s = time.perf_counter() - started
                    return
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"{self.command[:4]} was not ready after {self.timeout_s:.0f} s")

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                return
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                continue

    @property
    def pids(self) -> list[int]:
        """The process and all its descendants."""
        found = [self.process.pid]
        for pid in found:
            children = Path(f"/proc/{pid}/task/{pid}/children")
            if children.exists():
                found += [int(word) for word in children.read_text().split()]
        return found


def load(tools: Path, base_url: str, model: str, *flags: str, pids: Sequence[int] = ()) -> Any:
    """Runs the load generator; returns its report."""
    command = [
        *(sys.executable, str(tools / "load_openai.py"), "--base-url", base_url),
        *("--model", model, "--pids", ",".join(map(str, pids)), *flags),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tools, check=False)
    if not done.stdout.strip():
        raise SystemExit(f"load generator failed:\n{done.stderr}")
    report = json.loads(done.stdout)
    for level in report.get("levels", []):
        if level["errors"]:
            raise SystemExit(f"{base_url}: {level['error_kinds']} {level['error_samples']}")
    return report


def run_child(script: str, name: str, python: str, **given: str) -> Any:
    """What `script --child name` measured in a process of its own, with one thread.

    The script gets every value in `given` as a flag, a folder for what it writes as `--out`, and
    the path of a JSON file for its result as `--report`.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        words = [python, str(Path(script).resolve()), "--child", name, "--report", str(report)]
        for flag, value in {"out": folder, **given}.items():
            words += [f"--{flag}", value]
        done = subprocess.run(
            words,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stdout[-3000:]}")
        return json.loads(report.read_text("utf-8"))


def make_model(tools: Path, models: Path, size: str) -> Path:
    """The folder of the random model `size`, made when it is missing."""
    folder = models / size
    if not (folder / "config.json").exists():
        command = [sys.executable, str(tools / "make_tiny_model.py"), "--size", size]
        subprocess.run([*command, "--out", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def machine() -> str:
    """One line about the processor, its cores and the libraries."""
    import torch
    import transformers

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", info)
    flags = [f for f in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f in info]
    cores = len(os.sched_getaffinity(0))
    return (
        f"{name[1] if name else 'unknown CPU'}, {cores} cores ({', '.join(flags[:2])}); "
        f"Python {sys.version.split()[0]}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
