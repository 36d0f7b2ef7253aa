"""The web server is killed with -9 at any moment: no acknowledged vote is lost, none is twice.

FASTCHAT_KILL_ROUNDS says how often; 200 take some minutes.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_session import Session
from live import LIMIT_S

from fastchat.arena.events import VOTES, Event, log_files, read_events
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database
from fastchat.web.texts import load_texts

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("FASTCHAT_KILL_ROUNDS", "6"))
READERS = 3
THANKS = load_texts().arena.thanks
CHOICES = ("left", "right", "tie", "both_bad")


class Servers:
    """Starts arenas one after the other, by one process that has imported all they need."""

    def __init__(self, folder: Path, api_url: str) -> None:
        program = Path(__file__).parent.parent / "arena_forks.py"
        self.wanted = {
            "api_url": api_url,
            "database": str(folder / "arena.db"),
            "logs": str(folder / "logs"),
        }
        self.parent = subprocess.Popen(
            [sys.executable, program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._line() == "ready"

    def start(self) -> tuple[int, str]:
        """Process id and address of a new server."""
        assert self.parent.stdin
        self.parent.stdin.write(json.dumps(self.wanted) + "\n")
        self.parent.stdin.flush()
        about = json.loads(self._line())
        return about["pid"], f"http://127.0.0.1:{about['port']}"

    def close(self) -> None:
        assert self.parent.stdin and self.parent.stdout
        self.parent.stdin.close()
        self.parent.stdout.close()
        self.parent.wait(LIMIT_S)

    def _line(self) -> str:
        assert self.parent.stdout
        return self.parent.stdout.readline().strip()


@pytest.fixture
def servers(tmp_path: Path, fake: Any) -> Iterator[Servers]:
    fake.models = [{"id": "lion"}, {"id": "bear"}, {"id": "hare"}]
    started = Servers(tmp_path, fake.url)
    yield started
    started.close()


def battle_and_vote(page: str, name: str, acknowledged: list[str], killed: threading.Event) -> None:
    """Votes on one battle after the other until the server is killed."""
    rng = random.Random(name)
    numbers = itertools.count()
    while not killed.is_set():
        # A call that a slow machine lets run out of time is begun again in a session of its own.
        with contextlib.suppress(httpx.HTTPError, AssertionError, ValueError):
            session = f"{name}-{next(numbers)}"
            with contextlib.closing(Session(page, session=session)) as reader:
                while not killed.is_set():
                    question = f"{name}-{next(numbers)}"
                    reader.call("anonymous_clear", None)
                    reader.battle(question)
                    if THANKS in reader.vote(rng.choice(CHOICES)):
                        acknowledged.append(question)
        killed.wait(0.05)  # a server that does not listen yet has its processor to itself


def test_no_acknowledged_vote_is_lost_or_twice(servers: Servers, fake: Any, tmp_path: Path) -> None:
    rng = random.Random(11)
    acknowledged: list[str] = []
    for number in range(ROUNDS):
        pid, page = servers.start()
        killed = threading.Event()
        threads = [
            threading.Thread(
                target=battle_and_vote,
                args=(page, f"round{number}reader{i}", acknowledged, killed),
            )
            for i in range(READERS)
        ]
        for thread in threads:
            thread.start()
        before = len(acknowledged)
        if number % 2 == 0:  # every other server dies among votes, however slow the machine
            fake.wait_until(lambda before=before: len(acknowledged) > before)
        time.sleep(rng.uniform(0.1, 1.6))  # any moment: start, answers, votes
        os.kill(pid, signal.SIGKILL)
        killed.set()
        for thread in threads:
            thread.join(2 * LIMIT_S)
            assert not thread.is_alive()
    database = Database(str(tmp_path / "arena.db"))
    store = ArenaStore(database)
    stored: Counter[str] = Counter()
    for key in store.votes().battle:
        battle = store.battle(key)
        assert battle is not None
        stored[battle.a.messages[0][1]] += 1
    database.close()
    assert acknowledged, "the server lived long enough for some votes"
    assert set(stored.values()) == {1}
    assert set(acknowledged) <= stored.keys()
    lines = [e for e in read_events(log_files(tmp_path / "logs")) if isinstance(e, Event)]
    votes = Counter(e.states[0].messages[0][1] for e in lines if e.type in VOTES)
    assert set(votes.values()) == {1}
    assert set(acknowledged) <= votes.keys(), "what is acknowledged is in the log as well"
    print(f"{ROUNDS} kills, {len(acknowledged)} acknowledged, {len(stored)} stored")
