"""How quickly the arena takes votes: its ledger alone, and the whole page with people at it.

    python benchmarks/arena.py
    python benchmarks/arena.py --people 64 --think 15 --seconds 60

The first table: that many voters at once, each votes again as soon as its vote is on the disk. The
second: that many people battle through the queue that browsers use, over echoing models behind a
worker and gateway of their own; each reads for a while before voting, as people do.
"""

import argparse
import asyncio
import contextlib
import json
import random
import secrets
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from processes import Server, free_port, table

from fastchat.arena.events import Event, LoggedState
from fastchat.store.arena import ArenaStore
from fastchat.store.arena_records import StoredBattle, StoredConversation, StoredVote
from fastchat.store.database import Database
from fastchat.web.ledger import Ledger

MODELS = ("echo-a", "echo-b", "echo-c")
QUESTION = "Tell me in a few words what you would like to be asked about, and why that is."
CHOICES = ("left", "right", "tie", "both_bad")
TARGET_MS = 50


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of `values` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def vote(rng: random.Random) -> tuple[StoredVote, Event]:
    """A vote on a battle of two short conversations, and its line."""
    now = time.time()
    said = (("user", QUESTION), ("assistant", QUESTION * 4))
    a, b = (
        StoredConversation(id=secrets.token_hex(16), model=m, messages=said, updated_at=now)
        for m in rng.sample(MODELS, 2)
    )
    battle = StoredBattle(id=secrets.token_hex(16), kind="anonymous", a=a, b=b, started_at=now)
    states = tuple(LoggedState(conv_id=c.id, model_name=c.model, messages=said) for c in (a, b))
    line = Event(type="leftvote", tstamp=now, models=("", ""), states=states)
    return StoredVote(battle=battle, outcome="leftvote", turn=1, voted_at=now), line


async def vote_at_ledger(folder: Path, people: int, seconds: float) -> tuple[list[float], int]:
    """Milliseconds of each vote, and how many the store has in the end."""
    database = Database(str(folder / "ledger.db"))
    store = ArenaStore(database)
    ledger = Ledger(store, log_folder=folder / "logs")
    end = time.perf_counter() + seconds
    waits: list[float] = []

    async def person(seed: int) -> None:
        rng = random.Random(seed)
        while time.perf_counter() < end:
            record, line = vote(rng)
            began = time.perf_counter()
            await ledger.write([record], [line])
            waits.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(person(i) for i in range(people)))
    await ledger.close()
    stored = len(store.votes())
    database.close()
    return waits, stored


@dataclass(slots=True)
class Figures:
    """What the people at the page saw."""

    n_votes: int = 0
    votes_ms: list[float] = field(default_factory=list)
    """Without the first vote of each."""
    rounds_s: list[float] = field(default_factory=list)


class Person:
    """One open page."""

    def __init__(self, http: aiohttp.ClientSession, page: str, functions: dict[str, int]) -> None:
        self.http, self.page, self.functions = http, page, functions
        self.session = secrets.token_hex(6)

    async def call(self, name: str, *data: object) -> str:
        """The last thing that the event sends."""
        body = {
            "fn_index": self.functions[name],
            "session_hash": self.session,
            "data": list(data),
        }
        async with self.http.post(f"{self.page}/gradio_api/queue/join", json=body) as reply:
            reply.raise_for_status()
        query = {"session_hash": self.session}
        async with self.http.get(f"{self.page}/gradio_api/queue/data", params=query) as events:
            async for raw in events.content:
                if raw.startswith(b"data: ") and b'"process_completed"' in raw:
                    event = json.loads(raw[6:])
                    if not event["success"]:
                        raise SystemExit(f"{name} failed: {event}")
                    return raw.decode()
        raise SystemExit(f"{name} ended without an answer")

    async def battle(self, figures: Figures, *, until: float, think_s: float, seed: int) -> None:
        """Round after round."""
        rng = random.Random(seed)
        await asyncio.sleep(rng.uniform(0, think_s))
        first = True
        while time.perf_counter() < until:
            began = time.perf_counter()
            await self.call("anonymous_clear", None)
            await self.call("anonymous_send", None, QUESTION, 0.7, 1.0, 64)
            figures.rounds_s.append(time.perf_counter() - began)
            await asyncio.sleep(rng.expovariate(1 / think_s))
            if time.perf_counter() > until:
                return
            began = time.perf_counter()
            answer = await self.call(f"anonymous_{rng.choice(CHOICES)}", None)
            figures.n_votes += 1
            if not first:  # the library builds a session's controls at its first round
                figures.votes_ms.append((time.perf_counter() - began) * 1000)
            first = False
            if "saved" not in answer:
                raise SystemExit(f"a vote was not taken: {answer}")


@contextlib.contextmanager
def started(folder: Path):
    """Controller, worker, gateway and arena; the arena's address."""
    ports = [free_port() for _ in range(4)]
    controller, worker, gateway, page = (f"http://127.0.0.1:{port}" for port in ports)
    python = [sys.executable, "-m"]
    place = ["--host", "127.0.0.1", "--port"]
    known = ["--controller-address", controller]
    echo = ["--model-path", "echo:delay_ms=10", "--model-names", ",".join(MODELS)]
    room = ["--limit-worker-concurrency", "400"]
    data = ["--database-url", str(folder / "page.db"), "--log-dir", str(folder / "logs")]
    free = ["--vote-limit", "0"]
    servers = [
        (["controller", *place, str(ports[0])], f"{controller}/health"),
        (["model_worker", *place, str(ports[1]), *known, *echo, *room], f"{worker}/health"),
        (["openai_api_server", *place, str(ports[2]), *known], f"{gateway}/v1/models/{MODELS[0]}"),
        (
            [
                *("gradio_web_server_multi", *place, str(ports[3])),
                *("--api-url", f"{gateway}/v1", *data, *free),
            ],
            f"{page}/gradio_api/info",
        ),
    ]
    with contextlib.ExitStack() as stack:
        for (name, *flags), ready_url in servers:
            command = [*python, f"fastchat.serve.{name}", *flags]
            stack.enter_context(Server(command, ready_url=ready_url))
        yield page


async def battle_at_page(page: str, people: int, think_s: float, seconds: float) -> Figures:
    """`people` who battle at once."""
    figures = Figures()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        async with http.get(f"{page}/config") as reply:
            config = await reply.json()
        functions = {fn["api_name"]: fn["id"] for fn in config["dependencies"]}
        until = time.perf_counter() + seconds
        await asyncio.gather(
            *(
                Person(http, page, functions).battle(figures, until=until, think_s=think_s, seed=i)
                for i in range(people)
            )
        )
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--people", type=int, default=64)
    parser.add_argument("--think", type=float, default=15.0, help="mean seconds before a vote")
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    heads = ["where", "votes", "votes/s", "p50, ms", "p95, ms", "lost"]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        waits, stored = asyncio.run(vote_at_ledger(folder, args.people, args.seconds / 6))
        everywhere = "store and log, as fast as they go"
        rows.append(row(everywhere, waits, args.seconds / 6, stored, n=len(waits)))
        with started(folder) as page:
            figures = asyncio.run(battle_at_page(page, args.people, args.think, args.seconds))
            with contextlib.closing(sqlite3.connect(folder / "page.db")) as database:
                [stored] = database.execute("SELECT count(*) FROM arena_votes").fetchone()
            pace = f"page, {args.think:g} s of reading before a vote"
            rows.append(row(pace, figures.votes_ms, args.seconds, stored, n=figures.n_votes))
    print(f"{args.people} people at once on SQLite; the target of the 95th percentile of a vote is")
    print(
        f"{TARGET_MS} ms. Two answers came after {percentile(figures.rounds_s, 0.5):.2f} s (p50).\n"
    )
    print(table(heads, rows))
    return 0


def row(where: str, waits: list[float], seconds: float, stored: int, *, n: int) -> list[str]:
    """One line of the table; `n` votes were acknowledged."""
    rate = n / seconds
    cells = [f"{percentile(waits, share):.1f}" for share in (0.5, 0.95)]
    return [where, str(n), f"{rate:.1f}", *cells, str(n - stored)]


if __name__ == "__main__":
    raise SystemExit(main())
