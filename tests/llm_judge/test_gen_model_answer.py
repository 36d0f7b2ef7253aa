import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from fake_judge import BENCH, answer, rows_of
from live import LIMIT_S

from fastchat.llm_judge import gen_model_answer
from fastchat.llm_judge.folders import Bench

FILE = Path("data/fastchat_bench/model_answer/m.jsonl")
QUESTIONS = {q.question_id: q for q in Bench(data_dir=Path("x"), name="fastchat_bench").questions()}


def test_every_question_has_its_turns_in_the_published_form(here: Path) -> None:
    assert answer("m") == 0
    rows = rows_of(FILE)
    assert [row["question_id"] for row in rows] == list(QUESTIONS)
    for row in rows:
        assert list(row)[:5] == ["question_id", "answer_id", "model_id", "choices", "tstamp"]
        turns = QUESTIONS[row["question_id"]].turns
        (choice,) = row["choices"]
        assert choice["turns"] == [turn[:40].strip() for turn in turns]
        assert row["gen_params"]["temperature"] == QUESTIONS[row["question_id"]].temperature
    assert len({row["answer_id"] for row in rows}) == 80


def test_only_what_is_missing_is_answered_again(here: Path, capsys: Any) -> None:
    answer("m")
    rows = rows_of(FILE)
    torn = "".join(json.dumps(row) + "\n" for row in rows[:40]) + json.dumps(rows[40])[:50]
    failed = {**rows[50], "choices": [{"index": 0, "turns": ["fine", "$ERROR$"]}]}
    FILE.write_text(f"{json.dumps(failed)}\n{torn}")
    capsys.readouterr()
    assert answer("m") == 0
    told = capsys.readouterr().err
    assert "m.jsonl: 1 torn lines left out" in told and "40 of 80 questions are answered" in told
    again = rows_of(FILE)
    assert again[:40] == rows[:40]
    assert [row["question_id"] for row in again] == list(QUESTIONS)
    assert {row["answer_id"] for row in again[40:]}.isdisjoint(r["answer_id"] for r in rows)


def test_choices_slices_and_files_are_as_the_flags_say(here: Path) -> None:
    flags = ("--num-choices", "3", "--question-begin", "2", "--question-end", "5")
    assert answer("m", *flags, "--answer-file", "x/y.jsonl") == 0
    rows = rows_of(Path("x/y.jsonl"))
    assert [row["question_id"] for row in rows] == [203, 204, 205]
    assert [choice["index"] for choice in rows[0]["choices"]] == [0, 1, 2]
    seeds = [choice["seed"] for row in rows for choice in row["choices"]]
    assert len(set(seeds)) == 9


def test_failures_are_listed_and_stay_out_of_the_file(here: Path, capsys: Any) -> None:
    words = ["--model-path", "echo:fail_on=bakery", "--model-id", "m", *BENCH]
    assert gen_model_answer.main([*words, "--max-new-token", "20"]) == 1
    assert len(rows_of(FILE)) == 79
    told = capsys.readouterr().err
    assert "1 failed: m: The echo engine failed" in told and "question 202" in told


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model-id", ""), "Give --model-id"),
        (("--num-gpus-total", "3", "--num-gpus-per-model", "2"), "must be a multiple"),
        (("--num-choices", "0"), "--num-choices 0: give 1 or more"),
        (("--bench-name", "none"), "there are no questions"),
    ],
)
def test_what_cannot_be_done_is_one_line(here: Path, capsys: Any, flags: Any, said: str) -> None:
    assert answer("m", *flags) in (1, 2)
    told = capsys.readouterr().err.strip()
    assert said in told and "\n" not in told


def test_without_ray_several_copies_say_what_to_install(
    here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert answer("m", "--num-gpus-total", "2") == 2
    assert "pip install fschat[ray]" in capsys.readouterr().err


def test_ray_gets_a_task_with_its_accelerators_for_each_copy(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself is not run: this one keeps what it is told and does the work in place."""
    given: list[Any] = []

    def remote(**options: Any) -> Any:
        def wrap(function: Any) -> Any:
            def call(*args: Any) -> Any:
                given.append((options, len(args[1])))
                return function(*args)

            return types.SimpleNamespace(remote=call)

        return wrap

    ray = types.ModuleType("ray")
    ray.__dict__.update(init=lambda **_: None, remote=remote, get=lambda handles: handles)
    monkeypatch.setitem(sys.modules, "ray", ray)
    flags = ("--num-gpus-total", "6", "--num-gpus-per-model", "2", "--question-end", "8")
    assert answer("m", *flags) == 0
    assert given == [({"num_gpus": 2}, n) for n in (3, 3, 2)]
    assert answer("alone", "--question-end", "8") == 0
    said = [
        [(row["question_id"], row["choices"]) for row in rows_of(path)]
        for path in (FILE, FILE.with_name("alone.jsonl"))
    ]
    assert said[0] == said[1] and len(said[0]) == 8


def test_the_manifest_has_settings_and_sums(here: Path) -> None:
    answer("m", "--question-end", "4")
    start, end = rows_of(Path("data/fastchat_bench/manifest/m_answers.jsonl"))
    assert start["settings"]["model_path"] == "echo:" and start["questions"] == 4
    assert end["answered"] == 4 and end["requests"] == 8


def test_a_short_context_leaves_room_for_the_second_turn(here: Path) -> None:
    words = ["--model-path", "echo:context=700", "--model-id", "m", *BENCH]
    assert gen_model_answer.main([*words, "--question-end", "20"]) == 0
    rows = rows_of(FILE)
    assert len(rows) == 20
    assert all(all(row["choices"][0]["turns"]) for row in rows)


NEVER_DONE = """
import asyncio, sys
from fastchat.engine.echo import EchoEngine
from fastchat.llm_judge import gen_model_answer

generate = EchoEngine.generate
asked = []

async def the_first(self, request):
    asked.append(request)
    if len(asked) > 120:  # of 160, two for each question
        await asyncio.Event().wait()
    async for chunk in generate(self, request):
        yield chunk

EchoEngine.generate = the_first
sys.exit(gen_model_answer.main(sys.argv[1:]))
"""
"""The command with an engine that stops answering, so that it is not over before it is killed."""


@pytest.mark.slow
def test_after_kill_nine_the_rest_is_answered_and_nothing_twice(here: Path) -> None:
    words = ["--model-path", "echo:", "--model-id", "m", *BENCH, "--max-running", "8"]
    command = [sys.executable, "-c", NEVER_DONE, *words]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    end = time.monotonic() + LIMIT_S
    while not FILE.exists() or FILE.read_bytes().count(b"\n") < 8:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = rows_of(FILE)
    assert 8 <= len(kept) < 80
    assert answer("m") == 0
    after = {row["question_id"]: row for row in rows_of(FILE)}
    assert len(after) == 80
    assert all(after[row["question_id"]] == row for row in kept)


@pytest.mark.slow
def test_a_real_model_says_the_same_in_one_batch_and_one_by_one(here: Path) -> None:
    """The shipped model, greedy questions only: who shares the batch changes nothing."""
    flags = ["--model-path", "vicuna-tiny", "--max-new-token", "12", *BENCH, "--device", "cpu"]
    cut = ["--question-begin", "20", "--question-end", "28", "--num-threads", "1"]
    for name, running in (("all", "128"), ("one", "1")):
        words = [*flags, *cut, "--model-id", name, "--max-running", running]
        assert gen_model_answer.main(words) == 0
    folder = FILE.parent
    texts = [
        [row["choices"][0]["turns"] for row in rows_of(folder / f"{name}.jsonl")]
        for name in ("all", "one")
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 8
