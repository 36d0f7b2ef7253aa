import json
from pathlib import Path
from typing import Any

import pytest
from fake_judge import FakeJudge, rows_of

from fastchat.llm_judge import compare, report, run_benchmark, show_result
from fastchat.llm_judge.browser_views import load_shelf, reference_view, single_view
from fastchat.llm_judge.folders import Bench

FILE = """
name: shop
description: What our shop's assistant must know.
system_message: You work in a shop.
scoring: {kind: judge}
prompts:
  polite:
    template: "Polite? {question} -> {answer} ({conversation}) Rating like [[5]]"
categories:
  manners: {scoring: {kind: judge, prompt: polite}, temperature: 0.5}
judge: {name: rule}
models:
  - {name: echo-a, model_path: "echo:"}
questions:
  - {id: 7, category: facts, turns: ["42"], reference: ["42"], scoring: {kind: exact}}
  - {id: 8, category: facts, turns: ["no digits"], scoring: {kind: regex, pattern: '\\d'}}
  - {id: 9, category: forms, turns: ['{"a": 1}'], scoring: {kind: json}}
  - id: 10
    category: code
    turns: ["def f(x): return x + 1"]
    scoring: {kind: code, tests: "assert f(1) == 2"}
  - id: 11
    category: manners
    turns: ["Guten Tag!", "Was kostet das?", "Danke! Und 3+4?"]
    reference: ["", "", "7"]
    scoring: [{kind: judge, prompt: polite}, null, {kind: judge}]
"""


def bench_file(text: str = FILE) -> Path:
    path = Path("bench.yaml")
    path.write_text(text)
    return path


def run(fake: FakeJudge, *flags: str) -> int:
    words = ["--config", str(bench_file()), "--api-base", fake.url, "--retry-wait-s", "0.001"]
    return run_benchmark.main([*words, "--allow-code-execution", *flags])


def test_one_file_becomes_answers_scores_judgments_and_results(
    here: Path, fake: FakeJudge, capsys: Any
) -> None:
    assert run(fake) == 0
    out = capsys.readouterr().out
    assert "shop: 5 questions, 7 turns (1 exact, 1 regex, 1 json, 1 code, 2 judge)" in out
    folder = Path("data/shop")
    questions = rows_of(folder / "question.jsonl")
    assert [q["question_id"] for q in questions] == [7, 8, 9, 10, 11]
    assert questions[0]["required_temperature"] == 0 and questions[4]["required_temperature"] == 0.5
    assert len(rows_of(folder / "model_answer/echo-a.jsonl")[4]["choices"][0]["turns"]) == 3
    scores = {
        r["question_id"]: r["score"] for r in rows_of(folder / "model_judgment/rules_single.jsonl")
    }
    assert scores == {7: 1, 8: 0, 9: 1, 10: 1}
    judged = rows_of(folder / "model_judgment/rule_single.jsonl")
    assert [(r["turn"], r["judge"][1]) for r in judged] == [(1, "polite"), (3, "turn-reference-v1")]
    told = judged[1]["user_prompt"]
    assert "User: Guten Tag!\n\nAssistant: Guten Tag!\n\nUser: Was kostet das?" in told
    assert "<reference>\n7\n</reference>" in told and len(fake.bodies) == 2


def test_a_second_run_does_only_what_is_missing_or_changed(here: Path, fake: FakeJudge) -> None:
    assert run(fake) == 0
    path = Path("data/shop/model_judgment/rules_single.jsonl")
    before = path.read_text()
    fake.bodies.clear()
    assert run(fake) == 0
    assert fake.bodies == [] and path.read_text() == before
    changed = FILE.replace("kind: regex, pattern: '\\\\d'", "kind: regex, pattern: 'digits'")
    changed = changed.replace("Polite?", "Very polite?")
    assert changed.count("Very polite?") == 1
    words = ["--config", str(bench_file(changed)), "--api-base", fake.url]
    assert run_benchmark.main([*words, "--allow-code-execution"]) == 0
    assert len(fake.bodies) == 1


@pytest.mark.slow
def test_results_are_shown_reported_compared_and_browsed_as_any_other(
    here: Path, fake: FakeJudge, capsys: Any
) -> None:
    assert run(fake) == 0
    assert run(fake, "--models", "echo-b", "--model-path", "echo:") == 0
    where = ["--bench-name", "shop", "--judge-model", "rules"]
    assert show_result.main([*where, "--json", "r.json"]) == 0
    value = json.loads(Path("r.json").read_text())
    assert value["turn_1"]["echo-b"]["value"] == 0.75
    assert value["categories"]["echo-a"]["facts"]["value"] == 0.5
    assert report.main(where) == 0 and Path("data/shop/report/rules.html").exists()
    assert compare.main([*where, "--models", "echo-a", "echo-b"]) == 0
    assert "No difference beyond chance" in capsys.readouterr().out
    shelf = load_shelf(Bench(data_dir=Path("data"), name="shop"))
    assert shelf.judges == ["rule", "rules"]
    assert "Grade: 1" in single_view(shelf, 7, "echo-a", "rules")
    assert "7" in reference_view(shelf, 11, 3)


def test_models_behind_a_server_are_told_the_system_message(
    here: Path, fake: FakeJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_KEY", "k")
    text = FILE.replace(
        'model_path: "echo:"', f"api_base: {fake.url}, api_key_env: SHOP_KEY, model_name: theirs"
    )
    fake.rule = lambda body: "42. Rating: [[8]]"
    words = ["--config", str(bench_file(text)), "--limit", "1", "--api-base", fake.url]
    assert run_benchmark.main([*words, "--allow-code-execution"]) == 0
    (body,) = fake.bodies
    assert body["model"] == "theirs" and body["temperature"] == 0
    assert body["messages"][0] == {"role": "system", "content": "You work in a shop."}
    (row,) = rows_of(Path("data/shop/model_judgment/rules_single.jsonl"))
    assert row["score"] == 0 and "expected 42, found" in row["judgment"]
    monkeypatch.delenv("SHOP_KEY")
    assert run_benchmark.main([*words, "--allow-code-execution", "--force"]) == 2


@pytest.mark.slow
def test_a_judge_that_fails_leaves_the_rest(here: Path, fake: FakeJudge, capsys: Any) -> None:
    fake.rule = lambda body: (500, {})
    assert run(fake, "--max-tries", "2") == 1
    assert "HTTP 500 in each of 2 tries" in capsys.readouterr().err
    assert len(rows_of(Path("data/shop/model_judgment/rules_single.jsonl"))) == 4
    fake.rule = lambda body: "What?"
    assert run(fake) == 0
    assert {r["score"] for r in rows_of(Path("data/shop/model_judgment/rule_single.jsonl"))} == {-1}
    fake.rule = lambda body: "Rating: [[9]]"
    assert run(fake, "--retry-unparsed") == 0
    assert {r["score"] for r in rows_of(Path("data/shop/model_judgment/rule_single.jsonl"))} == {9}


def test_programs_run_only_where_it_is_allowed(here: Path, fake: FakeJudge, capsys: Any) -> None:
    assert run_benchmark.main(["--config", str(bench_file())]) == 2
    assert "--allow-code-execution" in capsys.readouterr().err
    assert run_benchmark.main(["--config", str(bench_file()), "--check"]) == 0
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: shop", "name: ../shop", "name: String should match"),
        ("kind: exact}", "kind: exakt}", "questions.0.scoring"),
        ('reference: ["42"]', "reference: []", "0 reference for 1 turns"),
        (', reference: ["42"]', "", "question 7: exact match needs a reference"),
        ("prompt: polite}, null", "prompt: rude}, null", "there is no prompt rude"),
        ("{id: 8,", "{id: 7,", "two questions have the same id"),
        ("id: 11", "idd: 11", "questions.4.idd: Extra inputs"),
        ("null, {kind: judge}]", "null]", "2 scoring for 3 turns"),
        ("name: echo-a,", "name: echo-a, api_base: 'http://x',", "not both"),
        ("questions:", "questions: [", "no YAML"),
        ("questions:", "questions_file: none.jsonl\nquestions:", "there is no such file"),
        ("questions:", "questions_file: 3\nquestions:", "questions_file"),
    ],
)
def test_a_wrong_file_says_where(here: Path, old: str, new: str, message: str, capsys: Any) -> None:
    text = FILE.replace(old, new, 1)
    assert text != FILE
    assert run_benchmark.main(["--config", str(bench_file(text)), "--check"]) == 1
    assert message in capsys.readouterr().err


def test_missing_pieces_are_asked_for(here: Path, capsys: Any) -> None:
    for flags, status in (([], 2), (["--config", "none.yaml"], 1)):
        assert run_benchmark.main(flags) == status
    no_judge = bench_file(FILE.replace("judge: {name: rule}\n", ""))
    assert run_benchmark.main(["--config", str(no_judge), "--allow-code-execution"]) == 2
    assert "--judge-model" in capsys.readouterr().err
    no_key = bench_file(
        FILE.replace("judge: {name: rule}", "judge: {name: r, api_key_env: NO_KEY}")
    )
    assert run_benchmark.main(["--config", str(no_key), "--allow-code-execution"]) == 2
    assert "r: set NO_KEY" in capsys.readouterr().err
    assert not Path("data/shop/model_answer").exists(), "nothing is answered before"


def test_questions_may_stand_in_a_file_of_the_published_form(here: Path, fake: FakeJudge) -> None:
    rows = [
        {"question_id": 81, "category": "x", "turns": ["hi", "there"], "reference": ["hi", "you"]}
    ]
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = "name: b\nscoring: {kind: exact}\nquestions_file: q.jsonl\n"
    words = ["--config", str(bench_file(text)), "--model-path", "echo:", "--models", "e"]
    assert run_benchmark.main(words) == 0
    found = rows_of(Path("data/b/model_judgment/rules_single.jsonl"))
    assert [(r["turn"], r["score"]) for r in found] == [(1, 1), (2, 0)]
