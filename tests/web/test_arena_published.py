"""What the arena keeps of the published one: addresses of tabs, endpoint files, logs, crowds."""

import asyncio
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import real_processes
from gradio_session import Session
from live import LIMIT_S

from fastchat.serve.monitor import clean_battle_data
from fastchat.web.texts import load_texts

WORDS = load_texts().arena
CROWD = 100


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameter",
    [
        *("arena", ""),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("vision", "compare", "direct", "model", "leaderboard", "about")
        ),
    ],
)
def test_a_parameter_of_the_address_opens_its_tab(
    serve_arena: Callable[..., str], parameter: str
) -> None:
    """One address for all would not do: the tab is told by the event that a load brings."""
    tabs = {"arena": 0, "vision": 0, "compare": 1, "direct": 2, "model": 2, "leaderboard": 3}
    wanted = {**tabs, "about": 4}.get(parameter)
    with httpx.Client(base_url=serve_arena(), trust_env=False, timeout=LIMIT_S) as http:
        config = http.get("/config").json()
        kinds = {part["id"]: part["type"] for part in config["components"]}
        [chooses] = [
            event
            for event in config["dependencies"]
            if [kinds[i] for i in event["outputs"]] == ["tabs"]
        ]
        assert [target[1] for target in chooses["targets"]] == ["load"]
        session = secrets.token_hex(6)
        body = {"fn_index": chooses["id"], "session_hash": session, "data": []}
        http.post(f"/gradio_api/queue/join?{parameter}", json=body).raise_for_status()
        url = f"/gradio_api/queue/data?session_hash={session}"
        with http.stream("GET", url) as stream:
            events = (json.loads(line[5:]) for line in stream.iter_lines() if line[:5] == "data:")
            done = next(event for event in events if event["msg"] == "process_completed")
    [told] = done["output"]["data"]
    assert told.get("selected") == wanted


@pytest.mark.slow
def test_a_model_that_comes_later_can_be_asked_without_a_restart(
    serve_arena: Callable[..., str], fake: Any
) -> None:
    fake.models, later = [], [{"id": "late"}]
    session = Session(serve_arena())
    assert load_texts().notice.no_model in session.battle("anybody?")[-1][-1]
    fake.models = later
    fake.wait_until(lambda: "anybody now?" in json.dumps(session.battle("anybody now?")))
    assert {request["model"] for request in fake.requests} == {"late"}
    session.close()


@pytest.mark.slow
@pytest.mark.parametrize("root", ["/arena", "https://arena.example/chat"])
def test_a_page_behind_a_proxys_path_asks_for_everything_below_it(
    serve_arena: Callable[..., str], fake: Any, root: str
) -> None:
    fake.models = [{"id": "lion"}]
    page = serve_arena(page={"root_path": root})
    known = {"host": "arena.example"} if root.startswith("https") else {}
    with httpx.Client(base_url=page, trust_env=False, headers=known, timeout=LIMIT_S) as http:
        config = http.get("/config").json()
        assert config["root"].endswith(root)
        assert f"{root}/" in http.get("/").text or root in http.get("/").text
        session = secrets.token_hex(6)
        [send] = [e["id"] for e in config["dependencies"] if e["api_name"] == "direct_send"]
        body = {"fn_index": send, "session_hash": session}
        body["data"] = [None, "hello there", "lion", 0.7, 1.0, 64]
        http.post("/gradio_api/queue/join", json=body).raise_for_status()
        with http.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
            said = next(line for line in stream.iter_lines() if "process_completed" in line)
        assert "lion heard: hello there" in said
    if known:
        assert httpx.get(page, headers={"host": "evil.example"}, timeout=LIMIT_S).status_code == 403


@pytest.mark.slow
def test_terms_come_first_on_the_arena_as_well(serve_arena: Callable[..., str]) -> None:
    assert "<dialog id=" not in httpx.get(serve_arena() + "/config", timeout=LIMIT_S).text
    assert (
        "<dialog id="
        in httpx.get(serve_arena(page={"show_terms": True}) + "/config", timeout=LIMIT_S).text
    )


def test_a_regenerated_battle_is_the_one_that_is_voted_on(
    serve_arena: Callable[..., str], fake: Any, tmp_path: Path
) -> None:
    fake.models = [{"id": "lion"}, {"id": "bear"}]
    session = Session(serve_arena())
    session.battle("hello")
    asked = [request["model"] for request in fake.requests]
    again = session.call("anonymous_regenerate", None, 0.7, 1.0, 64)
    assert "heard: hello" in json.dumps(again[-1])
    assert sorted(r["model"] for r in fake.requests[2:]) == sorted(asked), "the same models"
    assert all(len(r["messages"]) == 1 for r in fake.requests), "not the answer to an answer"
    assert WORDS.thanks in session.vote("left")
    session.close()


@pytest.mark.slow
def test_our_cleaner_counts_every_vote_of_our_log(
    serve_arena: Callable[..., str], fake: Any, tmp_path: Path
) -> None:
    fake.models = [{"id": "lion"}, {"id": "bear"}]
    fake.says_its_name = False
    session = Session(serve_arena(votes_per_minute=0))
    choices = ["left", "right", "tie", "both_bad"]
    for i, choice in enumerate(choices):
        session.call("anonymous_clear", None)
        session.battle(f"question {i}")
        assert WORDS.thanks in session.vote(choice)
    session.close()
    flags = ["--log-root", str(tmp_path / "logs"), "--output-dir", str(tmp_path / "out")]
    assert clean_battle_data.main(flags) == 0
    [file] = (tmp_path / "out").glob("clean_battle_*.json")
    battles = json.loads(file.read_text("utf-8"))
    asked = [request["model"] for request in fake.requests]
    assert len(battles) == len(choices) and len(asked) == 2 * len(choices)
    assert [b["winner"] for b in battles] == ["model_a", "model_b", "tie", "tie (bothbad)"]
    assert {b["model_a"] for b in battles} | {b["model_b"] for b in battles} == {"lion", "bear"}
    assert all(b["anony"] for b in battles)


@pytest.mark.slow
def test_a_model_of_an_endpoint_file_meets_a_local_one(fake: Any, tmp_path: Path) -> None:
    fake.models = [{"id": "theirs"}]
    entry = {"model_name": "theirs", "api_type": "openai", "api_base": fake.url}
    file = tmp_path / "endpoints.json"
    file.write_text(json.dumps({"paid": {**entry, "api_key": "k", "anony_only": False}}))
    ports = [real_processes.free_port() for _ in range(3)]
    controller, worker, page = (f"http://127.0.0.1:{port}" for port in ports)
    place = [["--host", "127.0.0.1", "--port", str(port)] for port in ports]
    echo = ["--model-path", "echo:", "--model-names", "local", "--worker-address", worker]
    about = ["--register", str(file), "--controller-url", controller]
    kept = ["--database-url", str(tmp_path / "a.db"), "--log-dir", str(tmp_path / "logs")]
    commands = [
        ["fastchat.serve.controller", *place[0]],
        ["fastchat.serve.model_worker", *place[1], *echo, "--controller-address", controller],
        ["fastchat.serve.gradio_web_server_multi", *place[2], *about, *kept],
    ]
    with real_processes.running(*commands, log_path=tmp_path / "log") as processes:
        real_processes.wait_until_answers(f"{worker}/health", processes)
        real_processes.wait_until_answers(page, processes)
        session = Session(page)

        def have_met() -> bool:  # the worker may register after the page is there
            session.call("anonymous_clear", None)
            session.battle("hello")
            if WORDS.thanks not in session.vote("tie"):
                return False
            names = json.dumps(session.follow("anonymous"))
            return "local" in names and "paid" in names

        fake.wait_until(have_met)
        session.close()
    assert {request["model"] for request in fake.requests} == {"theirs"}


@pytest.mark.slow
def test_a_hundred_answers_at_once_all_end(serve_arena: Callable[..., str], fake: Any) -> None:
    fake.models = [{"id": "lion"}]
    page = serve_arena()
    answers = asyncio.run(crowd(page))
    assert len(fake.requests) == CROWD
    for i, answer in enumerate(answers):
        assert f"lion heard: question of reader {i} " in answer, "each reader has its own answer"


async def crowd(page: str) -> list[str]:
    """The last thing that each of `CROWD` readers, who ask at the same time, is sent."""
    timeout = aiohttp.ClientTimeout(total=900)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(page, connector=connector, timeout=timeout) as http:
        async with http.get("/config") as reply:
            events = (await reply.json())["dependencies"]
        [send] = [event["id"] for event in events if event["api_name"] == "direct_send"]
        ready = asyncio.Barrier(CROWD)

        async def ask(i: int) -> str:
            session = secrets.token_hex(6)
            data = [None, f"question of reader {i}", "lion", 0.7, 1.0, 64]
            body = {"fn_index": send, "session_hash": session, "data": data}
            await ready.wait()
            async with http.post("/gradio_api/queue/join", json=body) as reply:
                reply.raise_for_status()
            url = f"/gradio_api/queue/data?session_hash={session}"
            async with http.get(url, read_bufsize=2**20) as stream:
                async for line in stream.content:
                    if b'"process_completed"' in line:
                        assert json.loads(line[5:])["success"]
                        return line.decode()
            raise AssertionError(f"reader {i} was left without an end")

        return await asyncio.gather(*(ask(i) for i in range(CROWD)))
