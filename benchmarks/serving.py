"""Chats through gateway and worker, beside static `generate` and another server.

    python benchmarks/serving.py --model small --dtype float32 --threads 1
    python benchmarks/serving.py --model tiny --levels 32,128
    python benchmarks/serving.py --peer-python /path/to/venv/bin/python   # a vLLM beside it

Every round runs the peers in turn, so that all of them see the same hour of a machine whose
speed drifts; the figures are medians over the rounds. Servers are measured as they run after
the first minutes, their caches full (`WARM_UP`). Streamed chats, about 98 prompt tokens
and 64 new ones, greedy, from the load generator of the tools folder.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from processes import TOOLS, Server, free_port, load, make_model, table

WARM_UP = 192
"""Chats before the measured ones, more than our cache of 32,768 tokens holds. The first use of
its memory costs a virtual machine 2 s a gigabyte."""


def static_rates(args: argparse.Namespace, folder: Path) -> dict[int, float]:
    """Tokens per second of `generate` on one padded batch, by batch size."""
    command = [
        *(sys.executable, str(args.tools / "inproc_limits.py"), "--model", str(folder)),
        *("--mode", "static", "--dtype", args.dtype, "--threads", str(args.threads)),
        *("--repeat", "2", "--batch", *map(str, args.levels)),
    ]
    env = {"OMP_NUM_THREADS": str(args.threads), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=args.tools, env=env, check=True
    )
    rates: dict[int, float] = {}
    for line in done.stdout.splitlines():
        row = json.loads(line)
        rates[int(row["name"].split("b=")[1].split()[0])] = row["tok_s"]
    return rates


def our_servers(
    args: argparse.Namespace, folder: Path, stack: contextlib.ExitStack
) -> list[Server]:
    """Controller, gateway and worker, all ready; the gateway last."""
    ports = [free_port() for _ in range(3)]
    controller, worker, gateway = (f"http://127.0.0.1:{port}" for port in ports)
    python = [sys.executable, "-m"]
    common = ["--host", "127.0.0.1", "--controller-address", controller]
    env = {"OMP_NUM_THREADS": str(args.threads)}
    name = ["--model-names", args.model, "--dtype", args.dtype]
    place = [*common, "--port"]
    first = Server(
        [*python, "fastchat.serve.controller", "--host", "127.0.0.1", "--port", str(ports[0])],
        ready_url=f"{controller}/health",
    )
    second = Server(
        [
            *(*python, "fastchat.serve.model_worker", *place, str(ports[1])),
            *("--model-path", str(folder), *name, "--num-threads", str(args.threads)),
        ],
        ready_url=f"{worker}/health",
        env=env,
        log_path=Path(tempfile.gettempdir()) / "benchmark-worker.log",
    )
    third = Server(
        [*python, "fastchat.serve.openai_api_server", *place, str(ports[2])],
        ready_url=f"{gateway}/v1/models/{args.model}",
    )
    for server in (first, second, third):
        stack.enter_context(server)
    return [first, second, third]


def peer_server(args: argparse.Namespace, folder: Path) -> Server:
    """vLLM's own OpenAI server for the same model, from its own environment."""
    port = free_port()
    return Server(
        [
            *(str(args.peer_python), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(folder), "--served-model-name", args.model, "--dtype", args.dtype),
            *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048"),
            *("--max-num-seqs", str(max(args.levels))),
        ],
        ready_url=f"http://127.0.0.1:{port}/health",
        env={
            "VLLM_CPU_KVCACHE_SPACE": "4",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, range(args.threads))),
            "OMP_NUM_THREADS": str(args.threads),
            "HF_HUB_OFFLINE": "1",
        },
        timeout_s=600,
        log_path=Path(tempfile.gettempdir()) / "benchmark-peer.log",
    )


def chat_load(
    args: argparse.Namespace, server: Server, pids: list[int], levels: str, *flags: str
) -> dict[str, Any]:
    """The load generator's report on streamed chats."""
    kind = ("--stream", "--max-tokens", "64", "--concurrency", levels)
    return load(args.tools, base_url(server), args.model, *kind, *flags, pids=pids)


def base_url(server: Server) -> str:
    return "/".join(server.ready_url.split("/")[:3])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "models")
    parser.add_argument("--model", choices=["tiny", "small"], default="small")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--levels", type=lambda s: [int(x) for x in s.split(",")], default=[1, 8, 32]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", type=Path, default=None)
    args = parser.parse_args()
    folder = make_model(args.tools, args.models, args.model)
    rates: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    ttft: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with contextlib.ExitStack() as stack:
        ours = our_servers(args, folder, stack)
        under_load = {"fastchat": (ours[-1], [pid for s in ours for pid in s.pids])}
        if args.peer_python:
            peer = stack.enter_context(peer_server(args, folder))
            under_load["vLLM"] = (peer, peer.pids)
        for server, pids in under_load.values():
            chat_load(args, server, pids, "32", "--requests", str(WARM_UP), "--seed", "0")
        for number in range(args.rounds):
            for batch, rate in static_rates(args, folder).items():
                rates["static generate"][batch].append(rate)
            for name, (server, pids) in under_load.items():
                levels = ",".join(map(str, args.levels))
                repeats = ("--rounds", "2", "--requests", "4", "--warmup", "2")
                seed = str(1000 * number + 1)
                report = chat_load(args, server, pids, levels, *repeats, "--seed", seed)
                for level in report["levels"]:
                    rates[name][level["concurrency"]].append(level["out_tok_per_s"])
                    ttft[name][level["concurrency"]].append(level["ttft_ms"]["p95"] / 1000)
    rows = []
    for name in rates:
        row: list[object] = [name]
        for level in args.levels:
            rate = statistics.median(rates[name][level])
            pairs = zip(rates[name][level], rates["static generate"][level], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            late = (
                f", first token p95 {statistics.median(ttft[name][level]):.2f} s"
                if name in ttft
                else ""
            )
            row.append(f"{rate:.0f} tok/s ({ratio:.2f}){late}")
        rows.append(row)
    title = f"Model `{args.model}`, {args.dtype}, {args.threads} compute thread(s)"
    print(f"{title}: tokens/s, in brackets the ratio to static `generate`.\n")
    print(table(["", *(f"{level} clients" for level in args.levels)], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
