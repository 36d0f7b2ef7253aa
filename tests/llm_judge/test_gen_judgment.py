import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_judge import BENCH, FakeJudge, answer, is_pair, judge, longer_is_better, rows_of
from live import LIMIT_S

from fastchat.llm_judge import gen_judgment
from fastchat.llm_judge.folders import PACKAGED, Bench, read_pairs, read_single

FOLDER = Path("data/fastchat_bench")
SINGLE = FOLDER / "model_judgment" / "rule_single.jsonl"
PAIR = FOLDER / "model_judgment" / "rule_pair.jsonl"


@pytest.fixture
def two(here: Path) -> Path:
    """A folder with the answers of two models, the second one's being longer."""
    assert answer("short", "--max-new-token", "10") == 0
    assert answer("org/long") == 0
    lengthen("org/long", "A" * 5 + "B" * 5)
    return here


def lengthen(model: str, text: str) -> None:
    path = Bench(data_dir=Path("data"), name="fastchat_bench").answer_file(model)
    rows = rows_of(path)
    for row in rows:
        row["choices"][0]["turns"] = [turn + text for turn in row["choices"][0]["turns"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def second_is_better(body) -> str:
    return "[[B]]" if is_pair(body) else "Rating: [[4]]"


@pytest.mark.slow
def test_grades_of_every_answer_in_the_published_file(two: Path, fake: FakeJudge) -> None:
    fake.together = 2
    assert judge(fake, "--parallel", "8") == 0
    rows = rows_of(SINGLE)
    assert len(rows) == len(fake.bodies) == 320
    assert {row["model"] for row in rows} == {"short", "org/long"}
    row = rows[0]
    assert list(row)[:8] == [
        *("question_id", "model", "judge", "user_prompt"),
        *("judgment", "score", "turn", "tstamp"),
    ]
    assert (
        row["judge"] == ["rule", "single-v1"] and row["score"] == 1 + len(row["user_prompt"]) % 10
    )
    assert {body["temperature"] for body in fake.bodies} == {0.0}
    assert 1 < fake.most_waiting <= 8


def test_pairs_are_shown_in_both_orders(two: Path, fake: FakeJudge) -> None:
    fake.rule = second_is_better
    flags = ("--mode", "pairwise-baseline", "--baseline-model", "short", "--parallel", "8")
    assert judge(fake, *flags, "--first-n", "10") == 0
    rows = read_pairs(PAIR).rows
    assert len(rows) == 20 and len(fake.bodies) == 40
    for row in rows:
        assert (row.model_1, row.model_2) == ("org/long", "short")
        assert (row.g1_winner, row.g2_winner) == ("model_2", "model_1")
        assert row.g1_user_prompt != row.g2_user_prompt


@pytest.mark.slow
def test_a_second_run_asks_nothing_and_changes_nothing(two: Path, fake: FakeJudge) -> None:
    assert judge(fake, "--mode", "pairwise-all", "--parallel", "16") == 0
    before, n = PAIR.read_bytes(), len(fake.bodies)
    assert judge(fake, "--mode", "pairwise-all", "--parallel", "16") == 0
    assert (PAIR.read_bytes(), len(fake.bodies)) == (before, n)


def test_without_the_judgments_the_cache_answers(two: Path, fake: FakeJudge) -> None:
    judge(fake, "--parallel", "8", "--first-n", "5")
    n = len(fake.bodies)
    SINGLE.unlink()
    judge(fake, "--parallel", "8", "--first-n", "5")
    assert len(fake.bodies) == n and len(rows_of(SINGLE)) == 20


def test_changed_answers_are_judged_again_and_others_not(two: Path, fake: FakeJudge) -> None:
    judge(fake, "--parallel", "8", "--first-n", "5")
    n = len(fake.bodies)
    answer("short", "--force", "--question-end", "1", "--max-new-token", "12")
    judge(fake, "--parallel", "8", "--first-n", "5")
    assert len(fake.bodies) == n + 2
    assert len(rows_of(SINGLE)) == 20


@pytest.mark.slow
def test_nonsense_is_asked_for_once_more_and_then_told(
    two: Path, fake: FakeJudge, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"0": "Ich weiß nicht.", "1": "", "2": "我不知道", "3": "Rating: [[77]]"}
    fake.rule = lambda body: said[str(len(body["messages"][1]["content"]) % 4)]
    assert judge(fake, "--parallel", "8", "--first-n", "8", "--model-list", "short") == 0
    rows = rows_of(SINGLE)
    assert len(rows) == 16 and {row["score"] for row in rows} == {-1}
    assert len(fake.bodies) == 32
    assert {row["reason"] for row in rows} <= {
        *("no rating like [[5]]", "empty reply", "a rating outside 1 to 10")
    }
    told = capsys.readouterr().err
    assert "16 of 16 judgments have no verdict and count nowhere" in told
    fake.rule = longer_is_better
    assert judge(fake, "--first-n", "8", "--model-list", "short") == 0
    assert len(fake.bodies) == 32
    flags = ("--first-n", "8", "--model-list", "short", "--retry-unparsed")
    assert judge(fake, *flags) == 0
    assert all(row["score"] > 0 for row in rows_of(SINGLE)) and len(rows_of(SINGLE)) == 16


def test_a_second_try_that_is_understood_counts(two: Path, fake: FakeJudge) -> None:
    fake.rule = lambda body: "Rating: [[6]]" if len(body["messages"]) > 2 else "Six, I think."
    judge(fake, "--first-n", "2", "--model-list", "short")
    rows = rows_of(SINGLE)
    assert {row["score"] for row in rows} == {6} and {row["tries"] for row in rows} == {2}
    assert rows[0]["judgment"] == "Six, I think.\n\nRating: [[6]]"


def test_verdicts_by_schema_where_the_server_can(two: Path, fake: FakeJudge) -> None:
    fake.refuses = set()
    fake.rule = lambda body: (
        '{"explanation": "Fine.", "rating": 7}' if "response_format" in body else "[[1]]"
    )
    judge(fake, "--first-n", "2", "--model-list", "short")
    assert rows_of(SINGLE)[0]["judgment"] == "Fine.\n\nRating: [[7]]"
    fake.bodies.clear()
    flags = ("--first-n", "3", "--model-list", "short", "--constrained", "never")
    judge(fake, *flags)
    assert len(fake.bodies) == 2
    assert not any("response_format" in body for body in fake.bodies)


@pytest.mark.slow
def test_failures_are_listed_and_the_rest_is_kept(
    two: Path, fake: FakeJudge, capsys: pytest.CaptureFixture[str]
) -> None:
    def rule(body):
        bad = "bakery" in body["messages"][1]["content"]
        return (500, {}) if bad else longer_is_better(body)

    fake.rule = rule
    assert judge(fake, "--first-n", "5", "--model-list", "short") == 1
    told = capsys.readouterr().err
    assert "HTTP 500 in each of 3 tries" in told and "2 failed" in told
    assert "question 202 turn 1: short" in told and "the same command judges only" in told
    assert len(rows_of(SINGLE)) == 8
    fake.rule = longer_is_better
    assert judge(fake, "--first-n", "5", "--model-list", "short") == 0
    assert len(rows_of(SINGLE)) == 10


def test_a_wrong_key_ends_the_run_at_once(two: Path, fake: FakeJudge, capsys) -> None:
    fake.rule = lambda _: (401, {})
    assert judge(fake) == 1
    assert len(fake.bodies) == 1
    assert "answered 401" in capsys.readouterr().err


def test_a_dry_run_says_the_cost_and_asks_nothing(
    two: Path, fake: FakeJudge, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    flags = ("--dry-run", "--price-input", "10", "--price-output", "30", "--mode", "pairwise-all")
    assert judge(fake, *flags) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["total_num_matches"] == 160 and value["total_num_questions"] == 80
    assert value["expected"]["requests"] == 320 and fake.bodies == []
    tokens = value["expected"]
    cost = (tokens["prompt_tokens"] * 10 + tokens["completion_tokens"] * 30) / 1e6
    assert tokens["cost_usd"] == pytest.approx(cost)
    assert not FOLDER.joinpath("model_judgment").exists()


def test_the_ceiling_keeps_what_there_is(two: Path, fake: FakeJudge, capsys) -> None:
    flags = ("--price-input", "0", "--price-output", "1000000", "--max-tokens", "100")
    assert judge(fake, *flags, "--max-cost", "150") == 1
    assert "--max-cost 150 is reached" in capsys.readouterr().err
    assert len(rows_of(SINGLE)) == len(fake.bodies) == 6


@pytest.mark.slow
def test_what_lacks_is_counted_with_its_remedy(
    two: Path, fake: FakeJudge, capsys: pytest.CaptureFixture[str]
) -> None:
    path = FOLDER / "model_answer" / "short.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], lines[0], *lines[7:]])[:-30])
    own = FOLDER / "reference_answer" / "rule.jsonl"
    own.parent.mkdir()
    packaged = PACKAGED / "fastchat_bench" / "reference_answer" / "fastchat.jsonl"
    own.write_bytes(b"".join(packaged.read_bytes().splitlines(keepends=True)[1:]))
    assert judge(fake) == 1
    told = capsys.readouterr().err
    assert "short.jsonl: 1 duplicate rows, the last of each counts" in told
    assert "short.jsonl: 1 torn lines left out" in told
    assert "short has no whole answer to 3 questions: 206, 207, 280; run gen_model_answer" in told
    assert "reasoning needs reference answers, and there is none for 1 question: 221" in told
    assert fake.bodies == []
    assert judge(fake, "--skip-missing", "--parallel", "16") == 0
    assert len(rows_of(SINGLE)) == 320 - 6 - 4


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--mode", "pairwise-baseline"), "The baseline gpt-3.5-turbo has no answers"),
        (("--model-list", "none"), "no answers of none"),
        (("--mode", "pairwise-all", "--model-list", "short"), "at least two models"),
        (("--parallel", "0"), "--parallel 0: give 1 or more"),
        (("--max-cost", "1"), "--max-cost needs --price-input"),
        (("--api-base", "localhost"), "is no address like"),
        (("--judge-model", "a", "a"), "name each judge once"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    two: Path, fake: FakeJudge, capsys: pytest.CaptureFixture[str], flags, said: str
) -> None:
    capsys.readouterr()
    words = [*BENCH, "--api-base", fake.url, "--judge-model", "rule", *flags]
    assert gen_judgment.main(words) == 2
    told = capsys.readouterr().err.strip()
    assert said in told and "\n" not in told
    assert fake.bodies == []


def test_a_jury_asks_every_judge_and_keeps_their_files_apart(two: Path, fake: FakeJudge) -> None:
    words = [*BENCH, "--api-base", fake.url, "--judge-model", "one", "x/two", "--first-n", "2"]
    assert gen_judgment.main([*words, "--parallel", "4"]) == 0
    assert [body["model"] for body in fake.bodies].count("one") == 8
    assert len(fake.bodies) == 16
    folder = FOLDER / "model_judgment"
    assert sorted(p.name for p in folder.iterdir()) == ["one_single.jsonl", "x%2Ftwo_single.jsonl"]


def test_the_manifest_says_what_the_run_was_made_with(two: Path, fake: FakeJudge) -> None:
    judge(fake, "--first-n", "2", "--price-input", "1", "--price-output", "1")
    start, end = rows_of(FOLDER / "manifest" / "rule_single.jsonl")
    assert start["run"] == end["run"]
    assert start["judge"] == "rule" and start["endpoint"] == fake.url and start["mode"] == "single"
    assert start["prompts"].keys() == {"single-v1", "single-v1-multi-turn"}
    assert start["versions"]["fastchat"] and len(start["questions_sha256"]) == 64
    assert end["judged"] == end["requests"] == 8 and end["failed"] == 0
    assert end["cost_usd"] == pytest.approx(8 * 110 / 1e6)
    assert end["reported_models"] == ["rule-1"]


@pytest.mark.slow
def test_pairs_may_be_compared_by_grades(two: Path, fake: FakeJudge) -> None:
    grades = {
        "name": "pair-v2",
        "type": "single",
        "system_prompt": "",
        "prompt_template": "{question}|{answer}",
        "output_format": "[[rating]]",
    }
    more = {**grades, "name": "pair-v2-multi-turn", "prompt_template": "{answer_2}"}
    Path("p.jsonl").write_text(f"{json.dumps(grades)}\n{json.dumps(more)}\n")
    fake.rule = lambda body: (
        "[[9]]" if body["messages"][0]["content"].endswith("AAAAABBBBB") else "[[3]]"
    )
    flags = ("--mode", "pairwise-all", "--judge-file", "p.jsonl", "--first-n", "3")
    assert judge(fake, *flags) == 0
    assert {(row.model_1, row.winner) for row in read_pairs(PAIR).rows} == {("org/long", "model_1")}


@pytest.mark.slow
def test_after_kill_nine_nothing_that_was_answered_is_asked_again(
    two: Path, fake: FakeJudge
) -> None:
    fake.refuses = set()
    seen: list[str] = []
    flags = ["--mode", "pairwise-all", "--parallel", "8", "--judge-model", "rule"]
    words = [*BENCH, "--api-base", fake.url, *flags]
    command = [sys.executable, "-m", "fastchat.llm_judge.gen_judgment", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    def rule(body) -> str:
        seen.append(json.dumps(body["messages"]))
        if len(seen) == 160:
            os.kill(process.pid, signal.SIGKILL)
        return longer_is_better(body)

    fake.rule = rule
    process.wait(LIMIT_S)
    assert process.returncode == -signal.SIGKILL
    fake.wait_until_alone()  # what was sent before the end may come after it
    kept = {row["key"] for row in rows_of(FOLDER / "cache" / "rule.jsonl")}
    n_before = len(seen)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    n_asked_twice = len(seen) - len(set(seen))
    assert len(set(seen)) == 320
    assert len(kept) >= n_before - 8
    assert n_asked_twice <= n_before - len(kept)  # those whose replies the kill cut off
    rows = read_pairs(PAIR)
    assert len(rows.rows) == 160 and rows.report() == []


@pytest.mark.slow
def test_a_judge_may_run_in_this_process(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastchat.engine.echo import EchoEngine

    most_at_once = n_open = 0
    generate = EchoEngine.generate

    async def counted(self: EchoEngine, request: Any) -> Any:
        nonlocal most_at_once, n_open
        n_open += 1
        most_at_once = max(most_at_once, n_open)
        try:
            async for chunk in generate(self, request):
                yield chunk
        finally:
            n_open -= 1

    monkeypatch.setattr(EchoEngine, "generate", counted)
    words = [*BENCH, "--judge-model", "local", "--judge-model-path", "echo:delay_ms=1"]
    words += ["--first-n", "2", "--model-list", "short"]
    assert gen_judgment.main(words) == 0
    path = FOLDER / "model_judgment" / "local_single.jsonl"
    # It repeats what it was asked, the example of a grade included.
    assert {row.score for row in read_single(path).rows} == {5.0}
    assert most_at_once == 4, "all matches are in the engine's batch at once"
