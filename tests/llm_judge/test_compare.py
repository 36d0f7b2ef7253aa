import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastchat.llm_judge import compare
from fastchat.llm_judge.significance import compare_paired, holm

FOLDER = Path("data/fastchat_bench/model_judgment")


def grades(model: str, score: Any, *, judge: str = "j") -> list[dict[str, Any]]:
    return [
        {
            **{"question_id": q, "model": model, "judge": [judge, "p"], "turn": turn},
            **{"score": score(q, turn), "user_prompt": "", "judgment": "", "tstamp": 1.0},
        }
        for q in range(201, 281)
        for turn in (1, 2)
    ]


def put(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*flags: str, status: int = 0) -> dict[str, Any]:
    words = ["--bench-name", "fastchat_bench", "--judge-model", "j", "--json", "c.json", *flags]
    assert compare.main([*words, "--rounds", "2000"]) == status
    return json.loads(Path("c.json").read_text()) if status == 0 else {}


def test_equal_models_are_not_told_apart_and_a_better_one_is(here: Path, capsys: Any) -> None:
    draw = random.Random(1)
    base = {(q, t): draw.uniform(3, 7) for q in range(201, 281) for t in (1, 2)}
    noise = {key: draw.gauss(0, 1) for key in base}
    mean = sum(noise.values()) / len(noise)
    rows = grades("base", lambda q, t: base[q, t])
    rows += grades("same", lambda q, t: base[q, t] + noise[q, t] - mean)
    rows += grades("tuned", lambda q, t: base[q, t] + 1 + noise[q, t] - mean)
    put(FOLDER / "j_single.jsonl", rows)
    same = run("--models", "same", "base")["results"]["all"]
    assert same["p"] > 0.9 and abs(same["difference"]) < 1e-9 and same["lower"] < 0 < same["upper"]
    assert "No difference beyond chance" in capsys.readouterr().out
    value = run("--models", "tuned", "base")
    better = value["results"]["all"]
    assert better["p"] < 0.001 and 0.7 < better["lower"] < better["upper"] < 1.3
    assert (better["n"], better["n_questions"]) == (160, 80)
    assert better["better"] + better["worse"] == 80 and better["better"] > better["worse"]
    assert "Ahead: tuned" in capsys.readouterr().out
    names = set(value["results"]) - {"all"}
    assert len(names) == 8 and "math" in names
    assert all(value["results"][n]["p_holm"] >= value["results"][n]["p"] for n in names)
    turned = run("--models", "base", "tuned")["results"]["all"]
    assert turned["difference"] == pytest.approx(-better["difference"])
    assert turned["p"] == better["p"]


def test_two_runs_of_one_model_come_from_two_files(here: Path, capsys: Any) -> None:
    old = put(Path("old.jsonl"), grades("m", lambda q, t: 5))
    new = put(Path("new.jsonl"), grades("m", lambda q, t: 6 + (q % 2)))
    value = run("--models", "m", "m", "--input-file", str(new), str(old))
    assert value["results"]["all"]["difference"] == 1.5
    assert "Ahead: the first run" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused_or_told(here: Path, capsys: Any) -> None:
    rows = grades("a", lambda q, t: -1 if q == 201 else 5) + grades("b", lambda q, t: 5)[:100]
    put(FOLDER / "j_single.jsonl", rows)
    value = run("--models", "a", "b")
    assert value["results"]["all"]["n"] == 98
    assert any("a: 2 judgments without a grade" in note for note in value["notes"])
    assert any("62 grades are left out" in note for note in value["notes"])
    for flags, message in (
        (("--models", "a"), "Give two models"),
        (("--models", "a", "a"), "a file for each run"),
        (("--models", "a", "b", "--judge-model", "none"), "there are no judgments"),
        (("--models", "a", "b", "--rounds", "5"), "100 or more"),
    ):
        words = ["--bench-name", "fastchat_bench", "--judge-model", "j", *flags]
        assert compare.main(words) == 2
        assert message in capsys.readouterr().err
    run("--models", "a", "nobody", status=1)
    assert "no grades of nobody; there are those of a, b" in capsys.readouterr().err


def test_pairs_are_compared_by_their_verdicts(here: Path) -> None:
    rows = [
        {
            **{"question_id": q, "model_1": "b", "model_2": "a", "judge": ["j", "p"], "turn": 1},
            **{"g1_winner": w, "g2_winner": w, "tstamp": 1.0},
        }
        for q, w in enumerate(["model_2"] * 14 + ["model_1"] * 2 + ["tie"] * 3 + ["error"])
    ]
    put(FOLDER / "j_pair.jsonl", rows)
    value = run("--models", "a", "b", "--mode", "pairwise")
    found = value["results"]["all"]
    assert found["first"] == pytest.approx(15.5 / 19) and found["n"] == 19
    assert (found["better"], found["worse"]) == (14, 2) and found["p"] < 0.01
    assert value["notes"] == ["1 comparisons without a verdict are left out"]


def test_few_questions_that_agree_are_no_certainty(here: Path, capsys: Any) -> None:
    for n in range(1, 9):
        found = compare_paired([2.0] * n, [1.0] * n, list(range(n)), rounds=200)
        assert found.p == pytest.approx(max(1 / 201, 2 / 2**n)) and found.p <= 1
    rows = [row for row in grades("a", lambda q, t: 7) if row["question_id"] == 201]
    rows += [row for row in grades("b", lambda q, t: 5) if row["question_id"] == 201]
    put(FOLDER / "j_single.jsonl", rows)
    alone = run("--models", "a", "b")["results"]["all"]
    assert (alone["p"], alone["lower"], alone["upper"]) == (1.0, None, None)
    assert "One question cannot tell" in capsys.readouterr().out


def test_several_judges_in_one_file_count_together(here: Path) -> None:
    rows = grades("a", lambda q, t: 8) + grades("b", lambda q, t: 5)
    rows += grades("a", lambda q, t: 4, judge="k") + grades("b", lambda q, t: 5, judge="k")
    put(FOLDER / "j_single.jsonl", rows)
    found = run("--models", "a", "b")["results"]["all"]
    assert (found["difference"], found["n"]) == (1.0, 160)


def test_the_p_value_is_uniform_where_there_is_no_difference() -> None:
    rng = np.random.default_rng(7)
    questions = np.repeat(np.arange(40), 2).tolist()
    found: list[float] = []
    for _ in range(200):
        gap = np.repeat(rng.normal(0, 1, 40), 2) + rng.normal(0, 0.5, 80)
        result = compare_paired(gap.tolist(), [0.0] * 80, questions, rounds=400)
        found.append(result.p)
    assert 0.01 < np.mean(np.array(found) < 0.05) < 0.12
    assert 0.4 < np.mean(found) < 0.6


def test_the_detectable_difference_is_that_of_the_t_test() -> None:
    gap = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = compare_paired(gap, [0.0] * 5, [1, 2, 3, 4, 5])
    error = math.sqrt(2.5 / 5)
    assert found.detectable == pytest.approx(error * (2.776445 + 0.940965), abs=1e-5)
    one = compare_paired([1.0, 2.0], [0.0, 0.0], [1, 1])
    assert math.isnan(one.detectable) and one.n_questions == 1


def test_holms_correction() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert found == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({}) == {}
