"""The gateway in front of a fake endpoint, beside a bare pass-through and beside no proxy.

    python benchmarks/gateway.py
    python benchmarks/gateway.py --rounds 5 --streams 10000

`fake_openai.py` of the tools folder answers without a model; `passthrough.py` is the least that
an aiohttp server can do. Every round asks all of them in turn. Beside requests per second stands
the processor time of the proxy per request, which other jobs on the machine hardly disturb. The
last part streams on and on and looks at the gateway's resident memory.
"""

import argparse
import contextlib
import statistics
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import TOOLS, Server, free_port, load, table

MODEL = "fake"
PIECES = 64
LEVEL = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of request."""

    name: str
    flags: tuple[str, ...]
    target: float
    """Of the pass-through's rate, at least."""


def cases(requests: int) -> list[Case]:
    common = ("--concurrency", str(LEVEL), "--max-tokens", str(PIECES))
    plain = ("--requests", str(4 * requests), "--warmup", "64")
    streamed = ("--requests", str(requests), "--warmup", "64", "--stream")
    return [
        Case(name="plain", flags=(*common, *plain), target=0.8),
        Case(name=f"streamed, {PIECES} pieces", flags=(*common, *streamed), target=0.8),
    ]


def start(args: argparse.Namespace, stack: contextlib.ExitStack) -> dict[str, Server]:
    """The fake endpoint and what stands in front of it."""
    ports = [free_port() for _ in range(3)]
    fake, bare, ours = (f"http://127.0.0.1:{port}" for port in ports)
    python = sys.executable
    servers = {
        "no proxy": Server(
            [
                *(python, str(args.tools / "fake_openai.py")),
                *("--port", str(ports[0]), "--chunks", str(PIECES)),
            ],
            ready_url=f"{fake}/v1/models",
        ),
        "pass-through": Server(
            [
                *(python, str(args.tools / "passthrough.py")),
                *("--port", str(ports[1]), "--upstream", fake),
            ],
            ready_url=f"{bare}/v1/models",
        ),
        "gateway": Server(
            [
                *(python, "-m", "fastchat.serve.openai_api_server", "--host", "127.0.0.1"),
                *("--port", str(ports[2]), "--endpoint", fake),
            ],
            ready_url=f"{ours}/health",
        ),
    }
    for server in servers.values():
        stack.enter_context(server)
    return servers


def base_url(server: Server) -> str:
    return "/".join(server.ready_url.split("/")[:3])


def resident_mb(server: Server) -> float:
    """Resident memory of the server's process."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def run_load(args: argparse.Namespace, server: Server, *flags: str) -> Mapping[str, Any]:
    """The last level of one run of the load generator."""
    report = load(args.tools, base_url(server), MODEL, *flags, pids=server.pids)
    return report["levels"][-1]


def throughput(args: argparse.Namespace, servers: dict[str, Server]) -> tuple[str, bool]:
    """Requests per second at 32 clients, and whether both targets are met."""
    rows: list[Sequence[object]] = []
    met = True
    for case in cases(args.requests):
        rates: dict[str, list[float]] = defaultdict(list)
        cpu: dict[str, list[float]] = defaultdict(list)
        for _ in range(args.rounds):
            for name, server in servers.items():
                level = run_load(args, server, *case.flags)
                rates[name].append(level["req_per_s"])
                cpu[name].append(level["cpu_ms_per_req"])
        both = zip(rates["gateway"], rates["pass-through"], strict=True)
        ratio = statistics.median(ours / bare for ours, bare in both)
        met = met and ratio >= case.target
        for name in servers:
            against = f"{ratio:.2f} (target {case.target})" if name == "gateway" else ""
            rate = f"{statistics.median(rates[name]):.0f}"
            rows.append([case.name, name, rate, f"{statistics.median(cpu[name]):.3f}", against])
    header = ["requests", "server", "requests/s", "CPU ms/request", "of the pass-through"]
    return table(header, rows), met


def first_token(args: argparse.Namespace, servers: dict[str, Server]) -> tuple[str, bool]:
    """Time to the first streamed token at one client, and what each proxy adds."""
    flags = ("--concurrency", "1", "--requests", str(args.requests), "--stream", "--warmup", "16")
    seen: dict[str, list[float]] = defaultdict(list)
    for _ in range(args.rounds):
        for name, server in servers.items():
            level = run_load(args, server, *flags, "--max-tokens", str(PIECES))
            seen[name].append(level["ttft_ms"]["p50"])
    direct = seen["no proxy"]
    added = {
        name: statistics.median(a - b for a, b in zip(values, direct, strict=True))
        for name, values in seen.items()
    }
    rows = [
        [name, f"{statistics.median(values):.2f}", f"{added[name]:.2f}"]
        for name, values in seen.items()
    ]
    text = table(["server", "first token p50, ms, 1 client", "added, ms (target 1)"], rows)
    return text, added["gateway"] <= 1.0


def memory(args: argparse.Namespace, server: Server) -> tuple[str, bool]:
    """Resident memory of the gateway while it serves many streams."""
    flags = ("--concurrency", str(LEVEL), "--stream", "--max-tokens", str(PIECES))
    part = max(1, args.streams // 5)
    rows: list[Sequence[object]] = []
    sizes: list[float] = []
    for i in range(6):
        if i:
            run_load(args, server, *flags, "--requests", str(part))
        sizes.append(resident_mb(server))
        rows.append([i * part, f"{sizes[-1]:.1f}"])
    grown = sizes[-1] - sizes[1]  # the first part fills the pools
    text = table(["streams so far", "resident, MiB"], rows)
    return f"{text}\nGrowth after the first part: {grown:+.1f} MiB.\n", grown <= 0.05 * sizes[1]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--streams", type=int, default=10_000)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        servers = start(args, stack)
        gateway = servers["gateway"]
        urllib.request.urlopen(f"{base_url(gateway)}/v1/models/{MODEL}", timeout=10).close()
        results = [
            throughput(args, servers),
            first_token(args, servers),
            memory(args, gateway),
        ]
    for text, _ in results:
        print(text)
    if not all(met for _, met in results):
        print("Not every target is met in this run.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
