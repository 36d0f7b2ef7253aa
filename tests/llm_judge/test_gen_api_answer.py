import json
from pathlib import Path
from typing import Any

import pytest
from fake_judge import BENCH, FakeJudge, rows_of

from fastchat.llm_judge import gen_api_answer

FILE = Path("data/fastchat_bench/model_answer/org%2Fmodel.jsonl")


def run(fake: FakeJudge, *flags: str) -> int:
    words = [*BENCH, "--openai-api-base", fake.url, "--model", "org/model"]
    return gen_api_answer.main([*words, "--max-tries", "3", "--retry-wait-s", "0.001", *flags])


def said_last(body: Any) -> str:
    return f"answer {len(body['messages'])} to {body['messages'][-1]['content'][:20]}"


@pytest.mark.slow
def test_turns_temperatures_and_concurrency(here: Path, fake: FakeJudge) -> None:
    fake.rule, fake.together = said_last, 2
    assert run(fake, "--parallel", "8", "--max-tokens", "77") == 0
    rows = {row["question_id"]: row for row in rows_of(FILE)}
    assert len(rows) == 80 and len(fake.bodies) == 160
    assert 1 < fake.most_waiting <= 8
    for body in fake.bodies:
        assert body["max_tokens"] == 77 and body["model"] == "org/model"
        assert [m["role"] for m in body["messages"]] in (["user"], ["user", "assistant", "user"])
    assert {b["temperature"] for b in fake.bodies} == {0.7, 0.1, 0.0}
    first = rows[201]["choices"][0]["turns"]
    assert first[0].startswith("answer 1 to Write") and first[1].startswith("answer 3 to Cut")


def test_a_second_run_asks_for_nothing_and_force_asks_again(here: Path, fake: FakeJudge) -> None:
    fake.rule = said_last
    run(fake, "--question-end", "3")
    assert run(fake, "--question-end", "3") == 0 and len(fake.bodies) == 6
    assert run(fake, "--question-end", "3", "--force") == 0 and len(fake.bodies) == 12


def test_failed_answers_are_no_answers(here: Path, fake: FakeJudge, capsys: Any) -> None:
    fake.rule = lambda body: (
        (429, {"retry-after": "0"}) if "lighthouse" in str(body) else said_last(body)
    )
    assert run(fake, "--question-end", "4", "--parallel", "2") == 1
    assert [row["question_id"] for row in rows_of(FILE)] == [202, 203, 204]
    assert "1 failed" in capsys.readouterr().err
    fake.rule = said_last
    assert run(fake, "--question-end", "4") == 0
    assert len(rows_of(FILE)) == 4


def test_required_temperatures_win_and_contradictions_are_refused(
    here: Path, fake: FakeJudge, capsys: Any
) -> None:
    folder = Path("data/own")
    folder.mkdir(parents=True)
    question = {"question_id": 1, "category": "new", "turns": ["t"], "required_temperature": 0.25}
    other = {"question_id": 2, "category": "new", "turns": ["t"]}
    path = folder / "question.jsonl"
    path.write_text(f"{json.dumps(question)}\n{json.dumps(other)}\n")
    fake.rule = said_last
    assert run(fake, "--bench-name", "own") == 0
    assert [body["temperature"] for body in fake.bodies] == [0.25, 0.7]
    assert run(fake, "--bench-name", "own", "--force-temperature", "0.5") == 2
    assert "contradicts the required_temperature of 1 questions" in capsys.readouterr().err
    fake.bodies.clear()
    flags = ("--question-end", "1", "--force-temperature", "0.5")
    assert run(fake, *flags) == 0
    assert {body["temperature"] for body in fake.bodies} == {0.5}


def test_choices_have_seeds_of_their_own(here: Path, fake: FakeJudge) -> None:
    fake.rule = said_last
    assert run(fake, "--question-end", "1", "--num-choices", "2") == 0
    seeds = [body["seed"] for body in fake.bodies]
    assert len(set(seeds)) == 2 and len(seeds) == 4
    assert len(rows_of(FILE)[0]["choices"]) == 2


def test_a_dry_run_counts_without_asking(here: Path, fake: FakeJudge, capsys: Any) -> None:
    assert run(fake, "--dry-run", "--price-input", "1", "--price-output", "2") == 0
    expected = json.loads(capsys.readouterr().out)["expected"]
    assert expected["requests"] == 160 and expected["cost_usd"] > 0 and fake.bodies == []
    assert not FILE.exists()


@pytest.mark.parametrize("flags", [("--force-temperature", "3"), ("--max-tokens", "0")])
def test_numbers_out_of_range_are_refused(here: Path, fake: FakeJudge, flags: Any) -> None:
    assert run(fake, *flags) == 2
