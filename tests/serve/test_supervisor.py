import asyncio
import dataclasses
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from live import LIMIT_S, until
from real_processes import free_port

from fastchat.errors import FastChatError, UsageError
from fastchat.serve.supervisor import Child, Patience, Supervisor, answers

# Answers 200 on its port; the other words say how it misbehaves.
SERVER = """
import os, signal, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

port, *words = sys.argv[1:]
if "fail" in words:
    print("some words"); sys.exit("fake: no such model")
if "refuse" in words:
    print("fake: unknown value", file=sys.stderr); sys.exit(2)
if "stubborn" in words:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "once" in words:
    flag = words[words.index("once") + 1]
    if os.path.exists(flag):
        sys.exit("fake: only once")
    open(flag, "w").close()

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"fine")
    def log_message(self, *args):
        pass

if "silent" in words:
    time.sleep(600)
HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""

QUICK = Patience(
    startup_s=300,
    hung_s=300,
    starting_probe_s=0.02,
    running_probe_s=0.05,
    steady_s=3600,
    delays_s=(0.01, 0.01),
    grace_s=0.3,
)


class World:
    """Children to supervise, and what the supervisor tells of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ready: list[str] = []
        self.pids: dict[str, int] = {}
        self.supervisors: list[Supervisor] = []

    def child(self, name: str, *words: str, essential: bool = True) -> Child:
        port = free_port()
        return Child(
            name=name,
            command=(sys.executable, "-c", SERVER, str(port), *words),
            health_url=f"http://127.0.0.1:{port}/",
            log_path=self.folder / f"{name}.log",
            essential=essential,
        )

    def supervisor(self, *children: Child, patience: Patience = QUICK) -> Supervisor:
        result = Supervisor(
            children,
            patience,
            on_ready=lambda child, _: self.ready.append(child.name),
            on_change=lambda pids: setattr(self, "pids", pids),
        )
        self.supervisors.append(result)
        return result


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    result = World(tmp_path)
    yield result
    for supervisor in result.supervisors:
        await supervisor.stop()
    assert result.pids == {}


def said(child: Child) -> bytes | None:
    """What a child answers; None where nobody listens."""
    return answers(child.health_url, timeout_s=LIMIT_S)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_all_children_answer_after_start_and_are_gone_after_stop(world: World) -> None:
    children = [world.child("a"), world.child("b")]
    supervisor = world.supervisor(*children)
    await supervisor.start()
    assert sorted(world.ready) == ["a", "b"]
    assert [said(child) for child in children] == [b"fine", b"fine"]
    pids = list(world.pids.values())
    await supervisor.stop()
    assert not any(is_running(pid) for pid in pids)


async def test_a_killed_child_is_started_again(world: World) -> None:
    supervisor = world.supervisor(world.child("a"), world.child("b"))
    await supervisor.start()
    before = dict(world.pids)
    os.kill(before["a"], signal.SIGKILL)
    await until(lambda: world.pids.get("a", before["a"]) != before["a"])
    await until(lambda: said(supervisor.children[0]) is not None)
    assert world.pids["b"] == before["b"]
    assert world.ready.count("a") == 1


@pytest.mark.slow
async def test_a_child_that_hangs_is_killed_and_started_again(world: World) -> None:
    supervisor = world.supervisor(world.child("a"))
    await supervisor.start()
    before = world.pids["a"]
    os.kill(before, signal.SIGSTOP)
    supervisor.patience = dataclasses.replace(QUICK, hung_s=0.3)  # not before it hangs
    await until(lambda: world.pids.get("a", before) != before)
    assert not is_running(before)


async def test_a_child_told_to_end_stays_down(world: World) -> None:
    supervisor = world.supervisor(world.child("a"), world.child("b"))
    await supervisor.start()
    os.kill(world.pids["a"], signal.SIGTERM)
    await until(lambda: "a" not in world.pids)
    os.kill(world.pids["b"], signal.SIGTERM)
    async with asyncio.timeout(LIMIT_S):
        await supervisor.wait()


async def test_a_child_that_cannot_start_ends_the_others_and_its_last_words_are_told(
    world: World,
) -> None:
    supervisor = world.supervisor(world.child("good"), world.child("bad", "fail"))
    with pytest.raises(FastChatError, match=r"^bad ended with status 1 .*: fake: no such model"):
        await supervisor.start()
    assert world.pids == {}


async def test_a_usage_error_of_a_child_is_one_of_ours(world: World) -> None:
    with pytest.raises(UsageError, match="fake: unknown value"):
        await world.supervisor(world.child("bad", "refuse")).start()


@pytest.mark.slow
async def test_a_child_that_never_answers_is_given_up_after_the_time_for_starting(
    world: World,
) -> None:
    patience = Patience(startup_s=0.2, starting_probe_s=0.02, grace_s=0.3)
    supervisor = world.supervisor(world.child("mute", "silent"), patience=patience)
    with pytest.raises(FastChatError, match=r"^mute gave no answer within 0\.2 s"):
        await supervisor.start()


async def test_an_essential_child_that_keeps_failing_is_an_error(world: World) -> None:
    supervisor = world.supervisor(world.child("a", "once", str(world.folder / "flag")))
    await supervisor.start()
    os.kill(world.pids["a"], signal.SIGKILL)
    with pytest.raises(FastChatError, match="a failed 3 times in a row and is given up"):
        async with asyncio.timeout(LIMIT_S):
            await supervisor.wait()


async def test_the_others_go_on_without_a_child_they_do_not_need(world: World) -> None:
    failing = world.child("a", "once", str(world.folder / "flag"), essential=False)
    supervisor = world.supervisor(failing, world.child("b"))
    await supervisor.start()
    os.kill(world.pids["a"], signal.SIGKILL)
    waiting = asyncio.create_task(supervisor.wait())
    await until(lambda: supervisor.given_up == {"a"})
    assert not waiting.done()
    assert said(supervisor.children[1]) == b"fine"
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.slow
async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(world: World) -> None:
    supervisor = world.supervisor(world.child("a", "stubborn"))
    await supervisor.start()
    pid = world.pids["a"]
    await supervisor.stop()
    assert not is_running(pid)
