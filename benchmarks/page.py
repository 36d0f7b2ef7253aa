"""How long people wait for the first piece of an answer when many ask the page at once.

    python benchmarks/page.py
    python benchmarks/page.py --people 100 --rounds 3

Every person is a session of the page, asked through the queue that browsers use; the answers
come from the echoing engine, a letter every 100 ms, through worker, gateway and page in processes
of their own.
"""

import argparse
import asyncio
import contextlib
import json
import secrets
import statistics
import sys
import time

import aiohttp
from processes import Server, free_port, table

QUESTION = "Tell me in a few words what you would like to be asked about, and why that is."
TARGET_S = 1.0
MODEL = "echo"


def start_page(stack: contextlib.ExitStack) -> tuple[str, Server]:
    """Controller, worker, gateway and page; the address of the page, and its process."""
    ports = [free_port() for _ in range(4)]
    controller, worker, gateway, page = (f"http://127.0.0.1:{port}" for port in ports)
    python = [sys.executable, "-m"]
    place = ["--host", "127.0.0.1", "--port"]
    known = ["--controller-address", controller]
    echo = ["--model-path", "echo:delay_ms=100", "--model-names", MODEL]
    room = ["--limit-worker-concurrency", "200"]
    servers = [
        (["controller", *place, str(ports[0])], f"{controller}/health"),
        (["model_worker", *place, str(ports[1]), *known, *echo, *room], f"{worker}/health"),
        (["openai_api_server", *place, str(ports[2]), *known], f"{gateway}/v1/models/{MODEL}"),
        (
            ["gradio_web_server", *place, str(ports[3]), "--api-url", f"{gateway}/v1"],
            f"{page}/gradio_api/info",
        ),
    ]
    server = None
    for (name, *flags), ready_url in servers:
        command = [*python, f"fastchat.serve.{name}", *flags]
        server = stack.enter_context(Server(command, ready_url=ready_url))
    assert server is not None
    return page, server


async def ask(http: aiohttp.ClientSession, page: str, fn_index: int) -> tuple[float, float]:
    """Seconds from the question to the first piece of its answer, and to its end."""
    session = secrets.token_hex(6)
    # The first value is the state of the conversation, which the server keeps.
    data = [None, QUESTION, MODEL, 0.7, 1.0, 64]
    body = {"data": data, "fn_index": fn_index, "session_hash": session}
    began = time.perf_counter()
    async with http.post(f"{page}/gradio_api/queue/join", json=body) as reply:
        reply.raise_for_status()
    first = 0.0
    params = {"session_hash": session}
    async with http.get(f"{page}/gradio_api/queue/data", params=params) as events:
        async for raw in events.content:
            if not raw.startswith(b"data: "):
                continue
            event = json.loads(raw[6:])
            if event["msg"] == "process_completed":
                if not event["success"]:
                    raise SystemExit(f"the page answered with an error: {event}")
                break
            if not first and b'"role":"assistant"' in raw:
                first = time.perf_counter() - began
    if not first:
        raise SystemExit("an answer ended without a piece of text")
    return first, time.perf_counter() - began


async def function_of(http: aiohttp.ClientSession, page: str, name: str) -> int:
    """The number under which the page's function is called."""
    async with http.get(f"{page}/config") as reply:
        config = await reply.json()
    return next(fn["id"] for fn in config["dependencies"] if fn["api_name"] == name)


async def ask_all(page: str, n_people: int) -> list[tuple[float, float]]:
    """All at once."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        fn_index = await function_of(http, page, "send")
        return await asyncio.gather(*(ask(http, page, fn_index) for _ in range(n_people)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = []
    with contextlib.ExitStack() as stack:
        page, _ = start_page(stack)
        asyncio.run(ask_all(page, 2))
        for number in range(1, args.rounds + 1):
            waits = asyncio.run(ask_all(page, args.people))
            firsts = sorted(first for first, _ in waits)
            cuts = statistics.quantiles(firsts, n=20)
            last = max(end for _, end in waits)
            rows.append([number, *(f"{s:.2f}" for s in (cuts[9], cuts[18], firsts[-1], last))])
    print(f"{args.people} people at once; the target of the 95th percentile is {TARGET_S} s.\n")
    print(table(["round", "first piece p50, s", "p95", "slowest", "all answered, s"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
