"""A judge as a voter: first positions, votes that never count among people's, runs that go on."""

import csv
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_judge import FakeJudge, is_pair
from live import LIMIT_S

from fastchat.arena.events import Event, log_files, read_events
from fastchat.arena.live import LiveLeaderboard
from fastchat.arena.simulate import main
from fastchat.arena.simulation import Planner, Tally
from fastchat.arena.store_battles import votes_of_store
from fastchat.errors import StoreError, UsageError
from fastchat.serve.monitor import clean_battle_data
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database

STRENGTH = {"weak": 1.0, "middle": 2.0, "good": 3.0, "strong": 4.0}
MODELS = ",".join(STRENGTH)


@pytest.fixture
def fake() -> Iterator[FakeJudge]:
    judge = FakeJudge()
    judge.rule = answers_and_judges
    judge.start()
    yield judge
    judge.stop()


def answers_and_judges(body: dict[str, Any]) -> str:
    """Models answer with a number around their strength; the judge prefers the higher one."""
    asked = body["messages"][-1]["content"]
    if is_pair(body):
        first, second = (float(q) for q in re.findall(r"quality (-?[\d.]+)", asked))
        return "[[A]]" if first > second else "[[B]]"
    noise = random.Random(f"{body['model']} {asked}").gauss(0, 1.2)
    return f"quality {STRENGTH[body['model']] + noise:.3f}"


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"Question {i}?"}) for i in range(200)))
    return path


def simulated(fake: FakeJudge, questions: Path, tmp_path: Path, *flags: str) -> int:
    argv = ["--question-file", str(questions), "--api-base", fake.url, "--models", MODELS]
    argv += ["--data-dir", str(tmp_path / "data"), "--log-root", str(tmp_path / "log")]
    argv += ["--retry-wait-s", "0.001", "--max-tries", "2", "--parallel", "8"]
    return main([*argv, *flags])


def ratings(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "ratings.csv").open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_a_new_model_gets_a_position_with_an_interval(
    fake: FakeJudge, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--judge-model", "judge", "--num-battles", "60", "--output-dir", str(out)]
    assert simulated(fake, questions, tmp_path, *flags, "--new-models", "good") == 0
    rows = ratings(out)
    values = [float(rows[name]["rating"]) for name in STRENGTH]
    assert values == sorted(values)
    assert int(float(rows["good"]["num_battles"])) == 60
    assert float(rows["good"]["rating_q025"]) < values[2] < float(rows["good"]["rating_q975"])
    assert "votes of judge: 60 now, 0 before" in capsys.readouterr().out
    pairs = [body for body in fake.bodies if is_pair(body)]
    assert len(pairs) == 120  # both orders


@pytest.mark.slow
def test_votes_are_a_judges_and_never_on_peoples_boards(
    fake: FakeJudge, questions: Path, tmp_path: Path, database_url: str
) -> None:
    flags = ["--rule", "longer", "--num-battles", "12", "--database-url", database_url]
    assert simulated(fake, questions, tmp_path, *flags) == 0
    database = Database(database_url)
    store = ArenaStore(database)
    votes = store.votes()
    assert len(votes) == 12 and not votes.human.any()
    assert set(votes.voter) == {"judge:rule-longer"}
    board = LiveLeaderboard(store).leaderboard()
    assert not board.first.rows and board.refused == {"judge_vote": 12}
    database.close()
    argv = ["--database-url", database_url, "--output-dir", str(tmp_path / "clean")]
    for rules in ([], ["--upstream-rules"]):
        assert clean_battle_data.main([*argv, *rules]) == 0
        (path,) = (tmp_path / "clean").glob("*.json")
        assert json.loads(path.read_text()) == []


def test_a_run_goes_on_where_it_was_and_pays_for_nothing_twice(
    fake: FakeJudge, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--judge-model", "judge", "--num-battles"]
    assert simulated(fake, questions, tmp_path, *flags, "10") == 0
    n_asked = len(fake.bodies)
    assert simulated(fake, questions, tmp_path, *flags, "7") == 0
    assert "votes of judge: 7 now, 10 before" in capsys.readouterr().out
    events = [e for e in read_events(log_files(tmp_path / "log")) if isinstance(e, Event)]
    fought = {
        (frozenset(s.model_name for s in e.states), e.states[0].messages[0][1]) for e in events
    }
    assert len(events) == len(fought) == 17
    assert {e.extra["origin"] for e in events} == {"judge"}
    assert len(fake.bodies) > n_asked
    texts = [json.dumps(body, sort_keys=True) for body in fake.bodies]
    assert len(texts) == len(set(texts))


def test_an_output_that_cannot_be_written_costs_no_vote(
    fake: FakeJudge, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--rule", "longer", "--num-battles", "6"]
    assert simulated(fake, questions, tmp_path, *flags, "--output-dir", f"{questions}/x") == 1
    assert "ratings.csv cannot be written: Not a directory" in capsys.readouterr().err
    assert len(events_of(tmp_path / "log")) == 6
    assert simulated(fake, questions, tmp_path, *flags, "--log-root", f"{questions}/x") == 1
    assert "a vote cannot be written" in capsys.readouterr().err


def test_it_ends_when_intervals_are_narrow_or_questions_run_out(
    fake: FakeJudge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(json.dumps({"prompt": f"{i}?"}) for i in range(30)))
    flags = ["--rule", "longer", "--models", "weak,strong"]
    fake.rule = lambda body: random.Random(json.dumps(body)).choice(["short", "rather long"])
    assert simulated(fake, few, tmp_path, *flags, "--num-battles", "500") == 0
    assert "30 now, 0 before; no pair has a question left" in capsys.readouterr().out
    more = tmp_path / "more.jsonl"
    more.write_text("\n".join(json.dumps({"prompt": f"x{i}?"}) for i in range(300)))
    flags += ["--num-battles", "300", "--target-width", "180"]
    assert simulated(fake, more, tmp_path, *flags) == 0
    said = capsys.readouterr().out
    assert "the widest interval is" in said and "300 now" not in said


def test_what_fails_is_told_and_gives_no_vote(
    fake: FakeJudge, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.rule = lambda body: "no verdict at all"
    flags = ["--judge-model", "judge", "--num-battles", "40"]
    assert simulated(fake, questions, tmp_path, *flags) == 1
    captured = capsys.readouterr()
    assert "votes of judge: 0 now" in captured.out and "stopped after 16 failures" in captured.out
    assert "16 battles: the judge's verdict cannot be read" in captured.err


def test_an_endpoint_that_dies_ends_the_run_and_votes_stay(
    fake: FakeJudge, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(body: dict[str, Any]) -> Any:
        return (503, {}) if len(fake.bodies) > 30 else answers_and_judges(body)

    fake.rule = dies
    flags = ["--rule", "longer", "--num-battles", "180"]
    assert simulated(fake, questions, tmp_path, *flags) == 0
    captured = capsys.readouterr()
    assert "failures without a vote" in captured.out and "HTTP 503" in captured.err
    n = sum(len(p.read_text().splitlines()) for p in (tmp_path / "log").glob("*-conv.json"))
    assert f"votes of rule-longer: {n} now" in captured.out and 8 <= n <= 16


@pytest.mark.slow
def test_verdicts_of_nonsense_are_counted_and_the_others_vote(
    fake: FakeJudge, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nonsense = ("", "[[A]] or [[B]]? I cannot say.", "[[D]]", "<script>alert(1)</script>", "\x00")

    def sometimes(body: dict[str, Any]) -> str:
        drawn = random.Random(json.dumps(body["messages"])).randrange(10)
        return nonsense[drawn] if is_pair(body) and drawn < 2 else answers_and_judges(body)

    fake.rule = sometimes
    flags = ["--judge-model", "judge", "--num-battles", "40"]
    assert simulated(fake, questions, tmp_path, *flags) == 0
    said = capsys.readouterr()
    n_votes = len(events_of(tmp_path / "log"))
    assert f"votes of judge: {n_votes} now, 0 before; all battles are fought" in said.out
    found = re.findall(r"failed: (\d+) battles", said.err)
    assert found and sum(map(int, found)) == 40 - n_votes > 0


@pytest.mark.slow
def test_a_judge_that_cannot_be_reached_is_told_and_nothing_is_lost(
    fake: FakeJudge, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoints = tmp_path / "endpoints.json"
    entries = {name: {"model_name": name, "api_base": fake.url} for name in STRENGTH}
    nobody = "http://127.0.0.1:9/v1"
    endpoints.write_text(json.dumps({**entries, "judge": {"model_name": "j", "api_base": nobody}}))
    flags = ["--judge-model", "judge", "--num-battles", "20", "--endpoints", str(endpoints)]
    assert simulated(fake, questions, tmp_path, *flags) == 1
    said = capsys.readouterr()
    assert "votes of judge: 0 now" in said.out and "failed: " in said.err
    assert "Traceback" not in said.err and not (tmp_path / "log").exists()
    n_answers = len(fake.bodies)
    endpoints.write_text(
        json.dumps({**entries, "judge": {"model_name": "j", "api_base": fake.url}})
    )
    assert simulated(fake, questions, tmp_path, *flags) == 0
    assert "votes of judge: 20 now" in capsys.readouterr().out
    asked = [body for body in fake.bodies[n_answers:] if not is_pair(body)]
    texts = [json.dumps(body) for body in fake.bodies]
    assert len(set(texts)) == len(texts) and len(asked) < n_answers + 40


@pytest.mark.slow
@pytest.mark.parametrize("where", ["log", "store"])
def test_a_killed_run_goes_on_and_no_battle_is_fought_twice(
    fake: FakeJudge, questions: Path, tmp_path: Path, where: str
) -> None:
    kept = {"log": str(tmp_path / "log"), "store": str(tmp_path / "arena.db")}[where]
    command = [sys.executable, "-m", "fastchat.arena.simulate", "--question-file", str(questions)]
    command += ["--api-base", fake.url, "--models", MODELS, "--judge-model", "judge"]
    command += ["--data-dir", str(tmp_path / "data"), "--parallel", "2"]
    command += ["--log-root" if where == "log" else "--database-url", kept]
    command += ["--num-battles", "400"]
    for n_kills in range(1, 4):
        wanted = 8 * n_kills
        fake.most = len(fake.bodies) + 60  # enough for those, and not for all
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + LIMIT_S
            while len(events_of(kept)) < wanted and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.02)
            process.kill()
        assert len(events_of(kept)) >= wanted
        fake.wait_until_alone()
    fake.most = None
    if where == "log":
        with next(Path(kept).glob("*-conv.json")).open("ab") as file:
            file.write(b'{"tstamp": 17')  # as a kill within a write leaves it
    before = len(events_of(kept))
    command[-1] = "10"
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert f"votes of judge: 10 now, {before} before" in done.stdout
    events = events_of(kept)
    fought = {
        (frozenset(s.model_name for s in e.states), e.states[0].messages[0][1]) for e in events
    }
    assert len(fought) == len(events) == before + 10
    texts = Counter(json.dumps(body, sort_keys=True) for body in fake.bodies)
    # What was in the air at a kill is asked again: two battles, two requests of each.
    assert sum(n - 1 for n in texts.values()) <= 3 * 4


def events_of(kept: Path | str) -> list[Event]:
    """The votes in a log's folder or a store; none where it is not there yet."""
    path = Path(kept)
    if path.suffix == ".db":
        try:
            return list(votes_of_store(str(path)))
        except (UsageError, StoreError):
            return []  # nothing is made yet
    if not list(path.glob("*-conv.json")):
        return []
    return [event for event in read_events(log_files(path)) if isinstance(event, Event)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--models", "a", "--rule", "longer"], "--models needs two"),
        (["--models", "a,a", "--rule", "longer"], "--models needs two"),
        (["--models", "a,b"], "--judge-model NAME"),
        (["--models", "a,b", "--rule", "longer", "--judge-model", "x"], "--judge-model NAME"),
        (["--models", "a,b", "--rule", "longer", "--new-models", "c"], "--new-models 'c'"),
        (["--models", "a,b", "--rule", "longer", "--num-battles", "0"], "--num-battles 0"),
        (["--models", "a,b", "--rule", "longer", "--target-width", "0"], "--target-width 0"),
        (["--models", "a,b", "--rule", "reference", "--question-file", "Q"], "has a reference"),
        (["--models", "a,b", "--rule", "longer", "--question-file", "BAD"], "BAD:2"),
        (["--models", "a,b", "--rule", "longer", "--question-file", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Q").write_text('{"prompt": "x"}')
    Path("BAD").write_text('{"prompt": "x"}\n{"turn')
    assert main(flags) != 0
    assert words in capsys.readouterr().err


def test_pairs_are_those_that_narrow_intervals() -> None:
    """A model that nobody has met is in the first battles, against everybody."""
    tally = Tally.of(["a", "b", "c", "new"])
    tally.wins[:3, :3] = 40.0 * (1 - np.eye(3))
    planned = Planner(tally, 50).next(6)
    assert all("new" in (p.first, p.second) for p in planned)
    assert {m for p in planned for m in (p.first, p.second)} == {"a", "b", "c", "new"}
    assert len({(frozenset((p.first, p.second)), p.question) for p in planned}) == 6


@pytest.mark.slow
def test_our_own_server_answers_and_a_rule_votes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped model under two names, over its own worker; the questions that ship."""
    from real_processes import free_port, running, wait_until_answers

    monkeypatch.chdir(tmp_path)
    port = free_port()
    worker = ["fastchat.serve.model_worker", "--model-path", "vicuna-tiny", "--device", "cpu"]
    worker += ["--model-names", "tiny-a,tiny-b", "--port", str(port), "--host", "127.0.0.1"]
    with running([*worker, "--no-register", "--num-threads", "1"], log_path=Path("l")) as processes:
        url = f"http://127.0.0.1:{port}/v1"
        wait_until_answers(f"{url}/models", processes)
        argv = ["--models", "tiny-a,tiny-b", "--rule", "shorter", "--api-base", url]
        argv += ["--num-battles", "6", "--max-tokens", "12", "--parallel", "3"]
        assert main([*argv, "--output-dir", "out"]) == 0
    rows = ratings(Path("out"))
    assert sum(float(row["num_battles"]) for row in rows.values()) == 12
    assert all(np.isfinite(float(row["rating_q975"])) for row in rows.values())
