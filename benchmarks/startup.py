"""How long a person waits: for a help page, for a server, for the first answer of all.

    python benchmarks/startup.py
    python benchmarks/startup.py --rounds 9 --platform-rounds 3

Times are of new processes on warm file caches. Help pages and servers are started in turn, so
that all of them see the same hour of a machine whose speed drifts. Beside the median stand the
best round and the processor time, which a busy machine disturbs less.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from processes import ROOT, TOOLS, Server, free_port, make_model, table

FIRST_CHAT_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One start, in seconds."""

    wall_s: float
    cpu_s: float


def commands() -> list[str]:
    """The programs of `fastchat.serve`."""
    folder = ROOT / "fastchat" / "serve"
    return sorted(p.stem for p in folder.glob("*.py") if "__main__" in p.read_text("utf-8"))


def children_cpu_s() -> float:
    """Processor time of the children that have ended and been waited for."""
    times = os.times()
    return times.children_user + times.children_system


def time_help(command: str) -> Timed:
    """`--help` from the start of the process to its end."""
    cpu, began = children_cpu_s(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", f"fastchat.serve.{command}", "--help"],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return Timed(wall_s=time.perf_counter() - began, cpu_s=children_cpu_s() - cpu)


def time_server(module: str, *flags: str) -> Timed:
    """A server from the start of the process to its first 200."""
    port = free_port()
    command = [sys.executable, "-m", f"fastchat.serve.{module}", "--host", "127.0.0.1"]
    url = f"http://127.0.0.1:{port}/health"
    with Server([*command, "--port", str(port), *flags], ready_url=url) as server:
        return Timed(wall_s=server.ready_s, cpu_s=process_cpu_s(server.process.pid))


def process_cpu_s(pid: int) -> float:
    """Processor time of a live process so far; 0 where the system does not tell."""
    path = Path(f"/proc/{pid}/stat")
    if not path.exists():
        return 0.0
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def time_platform(model: str, *flags: str) -> Timed:
    """What `make run` does, from its start to the first answered chat, page included."""
    ports = {name: free_port() for name in ("controller", "worker", "server", "web")}
    places = [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
    with tempfile.TemporaryDirectory() as folder:
        log_path = Path(folder) / "out"
        cpu, began = children_cpu_s(), time.perf_counter()
        with open(log_path, "wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fastchat.serve.launch_all_serve", *places, *flags),
                    *("--model-path", model, "--model-names", "m", "--log-dir", folder),
                ],
                stdout=log,
                stderr=log,
            )
        try:
            url = f"http://localhost:{ports['server']}/v1/chat/completions"
            while not is_answered(url):
                spent = time.perf_counter() - began
                if process.poll() is not None or spent > FIRST_CHAT_LIMIT_S:
                    raise SystemExit(f"no answer after {spent:.0f} s:\n{log_path.read_text()}")
                time.sleep(0.05)
            wall_s = time.perf_counter() - began
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
        return Timed(wall_s=wall_s, cpu_s=children_cpu_s() - cpu)


def is_answered(url: str) -> bool:
    """Whether a chat gets an answer with text."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 8}
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return bool(json.load(reply)["choices"][0]["message"]["content"])
    except OSError:
        return False


def row(what: str, target_s: float, rounds: list[Timed]) -> list[str]:
    """A line of the table."""
    walls = [timed.wall_s for timed in rounds]
    cpu = statistics.median(timed.cpu_s for timed in rounds)
    cells = (statistics.median(walls), min(walls), cpu, target_s)
    return [what, *(f"{seconds:.2f}" for seconds in cells)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "bench-models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--platform-rounds", type=int, default=3)
    parser.add_argument("--platform-model", default="vicuna-tiny")
    args = parser.parse_args()

    tiny = ("--model-path", str(make_model(args.tools, args.models, "tiny")), "--device", "cpu")
    # The servers of one row need nobody else: a gateway is ready without a controller.
    starts: dict[tuple[str, float], Callable[[], Timed]] = {
        (f"`{name} --help`", 0.3): lambda name=name: time_help(name) for name in commands()
    } | {
        ("controller ready", 1.0): lambda: time_server("controller"),
        ("gateway ready", 1.0): lambda: time_server("openai_api_server"),
        ("worker with `tiny` ready", 6.0): lambda: time_server(
            "model_worker", "--no-register", *tiny
        ),
    }
    rounds: dict[tuple[str, float], list[Timed]] = {key: [] for key in starts}
    for _ in range(args.rounds):
        for key, start in starts.items():
            rounds[key].append(start())
    key = ("all started, to the first answered chat", 20.0)
    rounds[key] = [time_platform(args.platform_model) for _ in range(args.platform_rounds)]
    header = ["seconds", "median", "best", "CPU", "target"]
    print(table(header, [row(*key, timed) for key, timed in rounds.items()]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
