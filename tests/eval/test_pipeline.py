"""Answers, reviews and page, by the commands, as a reader of the README would."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_judge import FakeJudge, rows_of

from fastchat.eval import (
    eval_gpt_review,
    generate_webpage_data_from_table,
    get_model_answer,
    model_qa,
    qa_baseline_gpt35,
)

FAST = ("--retry-wait-s", "0.001")


def baseline(fake: FakeJudge, *flags: str) -> int:
    return qa_baseline_gpt35.main(["-o", "a.jsonl", "--api-base", fake.url, *FAST, *flags])


def review(fake: FakeJudge, *flags: str) -> int:
    words = ["-a", "a.jsonl", "b.jsonl", "-o", "r.jsonl", "--api-base", fake.url, *FAST]
    return eval_gpt_review.main([*words, "--parallel", "8", *flags])


@pytest.fixture
def answered(here: Path, fake: FakeJudge) -> FakeJudge:
    fake.rule = lambda body: f"Answer to: {body['messages'][-1]['content']}"
    assert baseline(fake) == 0
    assert (
        model_qa.main(
            ["--model-name", "echo:", "--answer-file", "b.jsonl", "--max-new-tokens", "40"]
        )
        == 0
    )
    fake.bodies.clear()
    return fake


def test_the_baseline_answers_in_order_under_the_published_name(
    here: Path, fake: FakeJudge
) -> None:
    fake.rule = lambda body: "An answer."
    fake.together = 2
    assert baseline(fake, "--max-tokens", "77") == 0
    rows = rows_of(Path("a.jsonl"))
    assert [row["question_id"] for row in rows] == list(range(1, 81))
    assert {row["model_id"] for row in rows} == {"gpt-3.5-turbo:20230327"}
    assert set(rows[0]) >= {"answer_id", "question_id", "model_id", "text", "metadata"}
    body = fake.bodies[0]
    assert body["model"] == "gpt-3.5-turbo" and body["max_tokens"] == 77
    assert body["messages"][0] == {"role": "system", "content": "You are a helpful assistant."}
    assert 2 <= fake.most_waiting <= 32


def test_a_failed_answer_is_not_kept_as_one_and_is_asked_for_again(
    here: Path, fake: FakeJudge, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.rule = lambda body: (500, {}) if "pencils" in body["messages"][-1]["content"] else "Yes."
    assert baseline(fake) == 1
    assert len(rows_of(Path("a.jsonl"))) == 79
    assert "HTTP 500 in each of 3 tries" in capsys.readouterr().err
    fake.bodies.clear()
    fake.rule = lambda body: "Now."
    assert baseline(fake) == 0
    assert len(fake.bodies) == 1 and len(rows_of(Path("a.jsonl"))) == 80


def test_after_a_kill_only_the_torn_answer_is_asked_for_again(
    here: Path, fake: FakeJudge, capsys: Any
) -> None:
    fake.rule = lambda body: "Yes."
    assert baseline(fake) == 0
    whole = Path("a.jsonl").read_text()
    Path("a.jsonl").write_text(whole[:-40])
    fake.bodies.clear()
    assert baseline(fake) == 0
    assert len(fake.bodies) == 1 and len(rows_of(Path("a.jsonl"))) == 80
    assert "1 torn lines left out" in capsys.readouterr().err


def test_a_published_failure_text_is_answered_again(here: Path, fake: FakeJudge) -> None:
    failed = {
        "answer_id": "x",
        "question_id": 3,
        "model_id": "gpt-3.5-turbo:20230327",
        "text": "#ERROR#",
    }
    Path("a.jsonl").write_text(json.dumps(failed) + "\n")
    fake.rule = lambda body: "Fine."
    assert baseline(fake) == 0
    assert [row["text"] for row in rows_of(Path("a.jsonl"))] == ["Fine."] * 80


def test_checkpoints_answer_under_both_names_of_the_command(here: Path) -> None:
    words = ["--model-path", "echo:", "--model-id", "m:1", "--answer-file", "c.jsonl"]
    assert get_model_answer.main([*words, "--max-new-tokens", "30"]) == 0
    rows = rows_of(Path("c.jsonl"))
    assert len(rows) == 80 and rows[0]["model_id"] == "m:1" and len(rows[0]["text"]) <= 30
    assert get_model_answer.main(["--model-path", "echo:"]) == 2
    assert get_model_answer.main([*words, "--max-new-tokens", "0"]) == 2
    assert model_qa.main(["--model-name", "echo:", "--temperature", "9"]) == 2


@pytest.mark.slow
def test_the_shipped_model_answers(here: Path) -> None:
    table = {"question_id": 1, "text": "Hello!", "category": "generic"}
    Path("q.jsonl").write_text(json.dumps(table) + "\n")
    words = ["--model-name", "vicuna-tiny", "--question-file", "q.jsonl", "--max-new-tokens", "12"]
    assert model_qa.main([*words, "--device", "cpu"]) == 0
    (row,) = rows_of(Path("answer.jsonl"))
    assert row["model_id"] == "vicuna-tiny" and row["text"]


@pytest.mark.slow
def test_each_category_has_its_reviewer_and_both_orders_are_kept(answered: FakeJudge) -> None:
    answered.rule = lambda body: "8 6.5\nAssistant 1 is better."
    assert review(answered, "--both-orders") == 0
    rows, swapped = rows_of(Path("r.jsonl")), rows_of(Path("r_swapped.jsonl"))
    assert len(rows) == len(swapped) == 80 and len(answered.bodies) == 160
    assert [row["question_id"] for row in rows] == list(range(1, 81))
    reviewers = {row["question_id"]: row["reviewer_id"] for row in rows}
    assert (reviewers[1], reviewers[61], reviewers[68]) == (
        "gpt-4-general",
        "gpt-4-coding",
        "gpt-4-math",
    )
    assert {tuple(row["score"]) for row in rows} == {(8, 6.5)}
    assert [r["answer1_id"] for r in rows] == [r["answer2_id"] for r in swapped]
    body = answered.bodies[0]
    assert body["temperature"] == 0.2 and body["max_tokens"] == 1024 and body["model"] == "gpt-4"


@pytest.mark.slow
def test_a_second_run_asks_only_what_is_missing(answered: FakeJudge, capsys: Any) -> None:
    answered.rule = lambda body: (
        "Hard to say." if "Panama" in body["messages"][-1]["content"] else "5 5\nx"
    )
    assert review(answered) == 0
    assert "1 reviews do not begin with two numbers" in capsys.readouterr().err
    answered.bodies.clear()
    assert review(answered) == 0 and not answered.bodies
    answered.rule = lambda body: "6 4\nx"
    assert review(answered, "--retry-unparsed") == 0 and len(answered.bodies) == 1
    assert [r["score"] for r in rows_of(Path("r.jsonl")) if r["score"] != [5, 5]] == [[6, 4]]


@pytest.mark.slow
def test_missing_answers_are_told_and_the_rest_is_reviewed(
    answered: FakeJudge, capsys: Any
) -> None:
    kept = Path("b.jsonl").read_text().splitlines(keepends=True)[:-2]
    Path("b.jsonl").write_text("".join(kept))
    answered.rule = lambda body: "5 5"
    assert review(answered) == 1
    assert "2 questions lack an answer in one of the files (79, 80)" in capsys.readouterr().err
    assert len(rows_of(Path("r.jsonl"))) == 78
    assert eval_gpt_review.main(["-o", "r.jsonl"]) == 2


@pytest.mark.slow
def test_the_old_names_of_the_flags_are_understood(answered: FakeJudge) -> None:
    answered.rule = lambda body: "5 5"
    words = "-q table/question.jsonl --answer-list a.jsonl b.jsonl -p table/prompt.jsonl"
    more = f"--rule table/reviewer.jsonl --output old.jsonl --api-base {answered.url}"
    assert eval_gpt_review.main([*words.split(), *more.split()]) == 0
    assert len(rows_of(Path("old.jsonl"))) == 80


def test_the_page_gets_the_published_data(tables: Path, capsys: Any) -> None:
    words = ["--input", str(tables), "--output", "web/data.json"]
    assert generate_webpage_data_from_table.main(words) == 0
    assert {p.name for p in Path("web").iterdir()} == {
        "data.json",
        "index.html",
        "page.css",
        "page.js",
    }
    value = json.loads(Path("web/data.json").read_text())
    assert value["models"] == ["old", "other"] and value["ours"] == "new"
    assert value["names"] == {"old": "old-7b", "other": "other", "new": "new-7b"}
    (question, *_) = value["questions"]
    assert question["scores"] == {"old": [1, 9], "other": [9, 8]}
    assert question["answers"]["other"] == "other says 1"
    said = question["evaluations"]["old"]
    assert said == "**Assistant 1** and **Assistant 2** <b>tried</b>."
    assert "&lt;b&gt;tried" in question["evaluations_html"]["old"]
    assert generate_webpage_data_from_table.main(["--input", "nowhere"]) == 1


def test_the_data_of_2023_has_its_questions_models_and_order(shared: Path, here: Path) -> None:
    words = ["--input", str(shared / "data/vicuna_eval_2023"), "-o", "web/data.json"]
    assert generate_webpage_data_from_table.main(words) == 0
    value = json.loads(Path("web/data.json").read_text())
    assert value["models"] == ["alpaca", "llama", "gpt35", "bard"]
    questions = value["questions"]
    assert [q["id"] for q in questions] == list(range(1, 81))
    assert questions[0]["category"] == "writing" and questions[0]["question_id"] == 77
    assert set(questions[0]["answers"]) == {"alpaca", "llama", "bard", "gpt35", "vicuna"}
    assert set(questions[0]["evaluations"]) == {"alpaca", "llama", "gpt35", "bard"}
