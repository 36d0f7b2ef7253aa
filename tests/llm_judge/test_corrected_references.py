"""MT-bench's corrected reference answers: which they are, and what a computer can check of them."""

import contextlib
import io
import itertools
import json
import math
import random
import re
import shutil
import statistics
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from fake_judge import FakeJudge, rows_of

from fastchat.llm_judge import gen_judgment
from fastchat.llm_judge.folders import CORRECTED, Bench, read_answers

WRONG = [104, 105, 109, 111, 113, 114, 120, 122, 124, 125, 126, 128, 130]
TURNS = {row.question_id: row.choices[0].turns for row in read_answers(CORRECTED).rows}


def code(question: int, turn: int) -> dict[str, Any]:
    """What the Python code of an answer defines."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", TURNS[question][turn - 1], re.S):
        exec(block, names)  # our own file
    return names


def test_they_are_the_thirteen_that_are_known_to_be_wrong() -> None:
    held = read_answers(CORRECTED)
    assert [row.question_id for row in held.rows] == WRONG and not held.report()
    assert all(len(turns) == 2 and all(turns) for turns in TURNS.values())


def test_they_take_the_place_of_published_ones_and_of_no_others(shared: Path) -> None:
    folder = shared / "data"
    bench = Bench(data_dir=folder, name="mt_bench")
    published = bench.references("gpt-4", is_corrected=False).rows
    corrected = bench.references("gpt-4").rows
    changed = [a.question_id for a, b in zip(published, corrected, strict=True) if a != b]
    assert changed == WRONG and len(published) == 30
    other = Bench(data_dir=folder, name="vicuna_bench")
    assert other.references("gpt-4") == other.references("gpt-4", is_corrected=False)


def test_the_parking_lot() -> None:
    people = ("Alice", "Bert", "Cheryl", "David", "Enid")
    found: set[tuple[str, tuple[str, ...]]] = set()
    for cars in itertools.permutations(("yellow", "green", "purple", "red", "blue")):
        place = {color: i for i, color in enumerate(cars)}
        if (place["red"], place["purple"], place["yellow"]) != (0, 4, 3):
            continue
        if {place["blue"] - place["red"], place["green"] - place["blue"]} - {1, -1}:
            continue
        for names in itertools.permutations(people):
            at = {name: i for i, name in enumerate(names)}
            beside_bert = {at["Cheryl"] - at["Bert"], at["Enid"] - at["Bert"]}
            if (
                *(at["David"] == 4, abs(at["Alice"] - at["David"]) == 1),
                *(cars[at["Enid"]] == "green", beside_bert == {1, -1}),
            ) == (True,) * 4:
                found.add((names[3], cars[::-1]))
    ((secretary, colors),) = found
    assert TURNS[105][0].startswith(f"{secretary}.")
    assert ", ".join(colors) in TURNS[105][1]


def test_david_is_one_of_his_sisters_brothers() -> None:
    for turn, brothers_of_a_sister in ((1, 1), (2, 2)):
        said = {"None": 0, "One": 1}[TURNS[104][turn - 1].partition(".")[0]]
        assert said == brothers_of_a_sister - 1


def test_the_shadow_of_the_morning() -> None:
    turned_right = {"north": "east", "east": "south", "south": "west", "west": "north"}
    assert TURNS[109][0].startswith("West.")
    (facing,) = [way for way, right in turned_right.items() if right == "west"]
    assert TURNS[109][1].lower().startswith(facing)


def test_mathematics() -> None:
    a, b, c = (0, 0), (-1, 1), (3, 3)
    area = abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])) / 2
    sides = [math.dist(*pair) for pair in ((a, b), (b, c), (a, c))]
    assert f"The area is {area:g}." in TURNS[111][0]
    radius = math.prod(sides) / (4 * area)
    assert math.pi * radius**2 == pytest.approx(5 * math.pi) and "15.71" in TURNS[111][1]
    neither = Fraction(100 - 58 - 45 + 22, 100)
    assert TURNS[113][0].startswith(f"{int(neither * 100)} %") and TURNS[113][1].startswith("0.")
    totals = [i + j for i in range(1, 7) for j in range(1, 7)]
    assert TURNS[114][0].startswith(str(Fraction(sum(t >= 3 for t in totals), 36)))
    assert all(t % 2 == 0 or t >= 3 for t in totals) and TURNS[114][1].startswith("1.")
    for x in (2, complex(-1, math.sqrt(3) / 2), complex(-1, -math.sqrt(3) / 2)):
        assert abs(4 * x**3 - 9 * x - 14) < 1e-9
    assert "= 0." in TURNS[120][0] and TURNS[120][1].startswith("x = 2 is the only real")


def test_python_code_does_what_was_asked() -> None:
    subsequence = code(124, 2)["longest_common_subsequence"]
    assert [subsequence(*w) for w in (("ABCBDAB", "BDCABA"), ("", "a"), ("", ""))] == [4, 0, 0]
    for turn in (1, 2):
        names = code(125, turn)
        node = names["Node"]
        one, two = node(1), node(2)
        root = node(0, one, two) if turn == 1 else node(0, [one, node(3), two])
        assert names["highest_common_ancestor"](root, one, two) is root
        assert names["highest_common_ancestor"](root, one, node(9)) is None
        median = code(126, turn)["median"]
        draw = random.Random(1)
        for _ in range(300):
            a, b = (sorted(draw.choices(range(9), k=draw.randrange(6))) for _ in range(2))
            if a or b:
                assert median(a, b) == statistics.median(a + b), (a, b)
    assert [code(128, 1)["full_binary_trees"](n) for n in range(10)] == [
        *(0, 1, 0, 1, 0, 2, 0, 5, 0, 14)
    ]
    ternary = code(128, 2)["full_ternary_trees"]
    closed = [math.comb(3 * k, k) // (2 * k + 1) for k in range(6)]
    assert [ternary(3 * k + 1) for k in range(6)] == closed and ternary(5) == ternary(0) == 0
    a, b = [3, 1, 3, 2, 5], [5, 3, 3, 9]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code(130, 1)["print_common"](a, b)
    assert said.getvalue().split() == ["3", "5"]
    assert sorted(code(130, 2)["common"](a, b)) == [3, 5]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("turn", "asked", "terms"),
    [(1, range(8), [0, 1, 1, 2, 3, 5, 8, 13]), (2, range(1, 9), [0, -1, -1, -2, -4, -7, -13, -24])],
)
def test_c_plus_plus_code_does_too(
    tmp_path: Path, turn: int, asked: range, terms: list[int]
) -> None:
    compiler = shutil.which("c++")
    if not compiler:
        pytest.skip("there is no C++ compiler on this machine")
    (block,) = re.findall(r"```cpp\n(.*?)```", TURNS[122][turn - 1], re.S)
    source, program = tmp_path / "a.cpp", tmp_path / "a"
    source.write_text(block)
    subprocess.run([compiler, "-Wall", "-Werror", "-o", program, source], check=True)
    said = [subprocess.check_output([program], input=str(n), text=True) for n in asked]
    assert [int(line) for line in said] == terms


def test_the_judge_sees_them_unless_the_published_ones_are_wanted(
    shared: Path, here: Path, fake: FakeJudge, capsys: Any
) -> None:
    source, bench = shared / "data" / "mt_bench", here / "data" / "mt_bench"
    (bench / "model_answer").mkdir(parents=True)
    (bench / "reference_answer").mkdir()
    questions = [
        row for row in rows_of(source / "question.jsonl") if row["question_id"] in (103, 104)
    ]
    references = rows_of(source / "reference_answer" / "gpt-4.jsonl")
    answers = [
        {
            **{"question_id": q["question_id"], "answer_id": "x", "model_id": "m", "tstamp": 1.0},
            "choices": [{"index": 0, "turns": ["a", "b"]}],
        }
        for q in questions
    ]
    for path, rows in (
        (bench / "question.jsonl", questions),
        (bench / "reference_answer" / "gpt-4.jsonl", references),
        (bench / "model_answer" / "m.jsonl", answers),
    ):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fake.rule = lambda body: "Rating: [[5]]"
    words = ["--api-base", fake.url, "--judge-model", "rule", "--constrained", "never"]
    assert gen_judgment.main(words) == 0
    assert "1 published reference answers that are known to be wrong" in capsys.readouterr().err
    corrected = [b for b in fake.bodies if TURNS[104][0] in b["messages"][-1]["content"]]
    assert (len(fake.bodies), len(corrected)) == (4, 2)
    assert gen_judgment.main([*words, "--published-references"]) == 0
    assert len(fake.bodies) == 6, "only what has another reference is judged again"
    assert gen_judgment.main([*words, "--published-references"]) == 0
    assert len(fake.bodies) == 6
