"""What stored keys cost: the gateway open to all, beside one that checks, limits and counts.

    python benchmarks/gateway_keys.py
    python benchmarks/gateway_keys.py --rounds 5

Both stand in front of the same fake endpoint and are asked in turn. The second has a database with
a key of all four limits, reads every reply's usage, and writes what was used.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from gateway import MODEL, PIECES, base_url, cases
from processes import TOOLS, Server, free_port, load, table

from fastchat.store.database import Database
from fastchat.store.keys import KeyStore, Limits
from fastchat.store.usage import UsageStore

MUCH = 10**12


def start(args: argparse.Namespace, stack: contextlib.ExitStack, database: str) -> list[Server]:
    """The open gateway and the one with keys; the endpoint stands behind both."""
    ports = [free_port() for _ in range(3)]
    fake, *gateways = (f"http://127.0.0.1:{port}" for port in ports)
    endpoint = Server(
        [
            *(sys.executable, str(args.tools / "fake_openai.py")),
            *("--port", str(ports[0]), "--chunks", str(PIECES)),
        ],
        ready_url=f"{fake}/v1/models",
    )
    stack.enter_context(endpoint)
    servers: list[Server] = []
    for url, port, more in zip(
        gateways, ports[1:], ([], ["--database-url", database]), strict=True
    ):
        command = [sys.executable, "-m", "fastchat.serve.openai_api_server"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--endpoint", fake, *more]
        servers.append(stack.enter_context(Server(command, ready_url=f"{url}/health")))
    return servers


def wait_for_model(url: str, key: str) -> None:
    """Returns when the gateway has heard of the endpoint."""
    request = urllib.request.Request(
        f"{url}/v1/models/{MODEL}", headers={"authorization": f"Bearer {key}"}
    )
    for _ in range(100):
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10):
            return
        time.sleep(0.1)
    raise SystemExit("the gateway does not know the endpoint's model")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=500)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        database = Database(f"{folder}/keys.db")
        limits = Limits(
            requests_per_minute=MUCH,
            tokens_per_minute=MUCH,
            requests_per_day=MUCH,
            tokens_per_day=MUCH,
        )
        _, key = KeyStore(database).create("benchmark", now=time.time(), limits=limits)
        names = ("open", "stored key")
        started = start(args, stack, f"{folder}/keys.db")
        servers: dict[str, Server] = dict(zip(names, started, strict=True))
        for server in servers.values():
            wait_for_model(base_url(server), key)
        print(measure(args, servers, key))
    counted = sum(used.requests for _, used in UsageStore(database).since(0))
    print(f"Requests counted in the database when the gateway had ended: {counted}.")
    return 0


def measure(args: argparse.Namespace, servers: dict[str, Server], key: str) -> str:
    """Requests per second and processor time at 32 clients."""
    rows: list[Sequence[object]] = []
    for case in cases(args.requests):
        rates: dict[str, list[float]] = defaultdict(list)
        cpu: dict[str, list[float]] = defaultdict(list)
        for _ in range(args.rounds):
            for name, server in servers.items():
                flags = (*case.flags, "--api-key", key)
                report = load(args.tools, base_url(server), MODEL, *flags, pids=server.pids)
                level = report["levels"][-1]
                rates[name].append(level["req_per_s"])
                cpu[name].append(level["cpu_ms_per_req"])
        both = zip(rates["stored key"], rates["open"], strict=True)
        ratio = statistics.median(keyed / plain for keyed, plain in both)
        for name in servers:
            against = f"{ratio:.2f}" if name == "stored key" else ""
            rate = f"{statistics.median(rates[name]):.0f}"
            rows.append([case.name, name, rate, f"{statistics.median(cpu[name]):.3f}", against])
    return table(["requests", "gateway", "requests/s", "CPU ms/request", "of the open one"], rows)


if __name__ == "__main__":
    sys.exit(main())
