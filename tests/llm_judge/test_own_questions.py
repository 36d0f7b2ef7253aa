"""Our own benchmark: its form, and every reference that a computer can check."""

import contextlib
import io
import itertools
import math
import re
import sqlite3
from collections import deque
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from fastchat.llm_judge.folders import Bench
from fastchat.llm_judge.records import NEED_REF_CATS, Question

BENCH = Bench(data_dir=Path("/nowhere"), name="fastchat_bench")
QUESTIONS = {q.question_id: q for q in BENCH.questions()}
REFERENCES = {row.question_id: row.choices[0].turns for row in BENCH.references("any").rows}
ORDER = [
    *("writing", "roleplay", "reasoning", "math"),
    *("coding", "extraction", "stem", "humanities"),
]


def find(category: str, place: int) -> Question:
    return [q for q in QUESTIONS.values() if q.category == category][place - 1]


def reference(category: str, place: int, turn: int) -> str:
    question = find(category, place)
    given = REFERENCES.get(question.question_id) or question.reference or ()
    return given[turn - 1]


def code(place: int, *turns: int) -> dict[str, Any]:
    """What the Python code of these references defines, run one after another."""
    names: dict[str, Any] = {}
    for turn in turns:
        for block in re.findall(r"```python\n(.*?)```", reference("coding", place, turn), re.S):
            exec(block, names)  # our own files
    return names


def test_eighty_questions_of_two_turns_in_eight_categories() -> None:
    assert [q.category for q in QUESTIONS.values()] == [c for c in ORDER for _ in range(10)]
    assert list(QUESTIONS) == list(range(201, 281))
    assert all(len(q.turns) == 2 for q in QUESTIONS.values())
    turns = [turn for q in QUESTIONS.values() for turn in q.turns]
    assert len(set(turns)) == 160


def test_every_question_that_needs_a_reference_has_both_turns() -> None:
    needing = [q.question_id for q in QUESTIONS.values() if q.category in NEED_REF_CATS]
    assert sorted(REFERENCES) == needing
    assert all(len(turns) == 2 and all(turns) for turns in REFERENCES.values())
    assert all(len(find("extraction", i).reference or ()) == 2 for i in range(1, 11))


def test_boxes() -> None:
    def fits(row: tuple[str, ...], *, black: bool) -> bool:
        at = {colour: i for i, colour in enumerate(row, 1)}
        return (
            at["blue"] - at["red"] == 1
            and at["green"] in (1, 5)
            and abs(at["white"] - at["green"]) > 1
            and at["white"] < at["green"]
            and (not black or at["black"] == 2)
        )

    rows = list(itertools.permutations(("red", "blue", "green", "white", "black")))
    (only,) = [row for row in rows if fits(row, black=True)]
    assert reference("reasoning", 1, 1).startswith(f"From left to right: {', '.join(only)}.")
    found = [", ".join(row) for row in rows if fits(row, black=False)]
    text = reference("reasoning", 1, 2)
    assert text.startswith("Four arrangements.") and len(found) == 4
    assert all(row in text for row in found)


def test_ages_knights_clock_and_snail() -> None:
    ((mira, jon),) = [
        (m, j) for m in range(1, 63) for j in [63 - m] if m > j and m == 2 * (j - (m - j))
    ]
    assert f"Mira is {mira} and Jon is {jon}" in reference("reasoning", 2, 1)
    (years,) = [t for t in range(100) if 5 * (mira + t) == 6 * (jon + t)]
    assert f"In {years} years" in reference("reasoning", 2, 2)

    kinds = [
        (a, b, c)
        for a, b, c in itertools.product((True, False), repeat=3)
        if a == (b == c) and b == (not a) and c == (not b)
    ]
    assert kinds == [(False, True, False)]
    assert "A is a knave, B is a knight, C is a knave" in reference("reasoning", 3, 1)
    assert [d for d in (True, False) if d == (1 + d == 2)] == [True, False]
    assert "cannot be decided" in reference("reasoning", 3, 2)

    assert 336 / 56 == 6 and "6:00 pm" in reference("reasoning", 6, 1)
    assert 720 / 4 == 180 and "180 hours" in reference("reasoning", 6, 2)

    def day_out(slips: Callable[[int], float]) -> int:
        height, day = 0.0, 1
        while height + 3 < 12:
            height, day = height + 3 - slips(day), day + 1
        return day

    assert f"On day {day_out(lambda _: 2)}." in reference("reasoning", 10, 1)
    assert f"On day {day_out(lambda day: 2.5 if day >= 6 else 2)}." in reference("reasoning", 10, 2)


def test_race() -> None:
    found: list[str] = []
    for order in itertools.permutations("ABCDEF"):
        at = {runner: i for i, runner in enumerate(order)}
        if at["A"] - at["B"] == 1 and at["E"] < at["C"] < at["D"] < 5 and at["F"] not in (0, 5):
            found.append(" ".join(order))
    assert {order[0] for order in found} == {"E"} and {order[-1] for order in found} == {"A"}
    assert "E was first and A was last" in reference("reasoning", 5, 1)
    text = reference("reasoning", 5, 2)
    assert text.startswith("Three:") and len(found) == 3 and all(order in text for order in found)


def test_jugs() -> None:
    sizes, start = (8, 5, 3), (8, 0, 0)

    def pours(at: tuple[int, ...]) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        for i, j in itertools.permutations(range(3), 2):
            amount = min(at[i], sizes[j] - at[j])
            to = list(at)
            to[i] -= amount
            to[j] += amount
            found.append(tuple(to))
        return found

    steps, queue = {start: 0}, deque([start])
    while queue:
        at = queue.popleft()
        for to in pours(at):
            if to not in steps:
                steps[to] = steps[at] + 1
                queue.append(to)
    text = reference("reasoning", 7, 1)
    path = [tuple(map(int, found)) for found in re.findall(r"\((\d),(\d),(\d)\)", text)]
    assert all(b in pours(a) for a, b in itertools.pairwise(path))
    assert path[0] == start and 4 in path[-1]
    assert len(path) - 1 == min(n for at, n in steps.items() if 4 in at) == 6
    assert steps[4, 4, 0] == 7 and reference("reasoning", 7, 2).startswith("Seven")


def test_calendar() -> None:
    names = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

    def weekday(*day: int) -> str:
        return names[date(*day).weekday()]

    def fridays(year: int) -> list[int]:
        return [m for m in range(1, 13) if date(year, m, 13).weekday() == 4]

    assert weekday(2026, 1, 1) == "Thursday"
    assert f"1 October is a {weekday(2026, 10, 1)}" in reference("reasoning", 9, 1)
    assert fridays(2026) == [2, 3, 11]
    assert "February, March and November" in reference("reasoning", 9, 1)
    assert f"1 March is a {weekday(2027, 3, 1)}" in reference("reasoning", 9, 2)
    assert fridays(2027) == [8] and "August only" in reference("reasoning", 9, 2)


def test_mathematics() -> None:
    def says(place: int, turn: int, text: object) -> None:
        assert str(text) in reference("math", place, turn)

    for x, y in ((2, 5), (5, 2)):
        assert (x + y, x * x + y * y) == (7, 29)
        says(1, 1, f"({x}, {y})")
        says(1, 2, x**5 + y**5)
    draws = list(itertools.combinations("r" * 5 + "b" * 7, 3))
    two = Fraction(sum(d.count("r") == 2 for d in draws), len(draws))
    says(2, 1, f"{two}.")
    some = [d for d in draws if "r" in d]
    says(2, 2, f"{Fraction(sum(d.count('r') == 3 for d in some), len(some))}.")
    assert max(x / 100 for x in range(1000)) and 4 / math.e**2 == pytest.approx(0.5413, abs=1e-4)
    best = max((x / 1000 for x in range(10_000)), key=lambda x: x * x * math.exp(-x))
    assert best == 2.0
    says(3, 2, "2.")
    says(4, 1, f"{pow(7, 2026, 100)}.")
    says(4, 2, f"{pow(7, 2026, 1000)}.")
    area = math.sqrt(21 * 8 * 7 * 6)
    says(5, 1, f"Area {area:.0f}, inradius {area / 21:.0f}")
    says(5, 2, f"{13 * 14 * 15 / (4 * area)}; height {2 * area / 14:.0f}")
    assert 4000 * 1.05**8 < 6000 < 4000 * 1.05**9
    says(6, 1, "After 9 years")
    assert 4000 * (1 + 0.049 / 12) ** 99 < 6000 < 4000 * (1 + 0.049 / 12) ** 100
    says(6, 2, "After 100 months")
    numbers = [n for n in range(1000, 10_000, 5) if len(set(str(n))) == 4]
    says(7, 1, f"{len(numbers)}.")
    says(7, 2, f"{sum(n > 6000 for n in numbers)}.")
    power = [[1, 0], [0, 1]]
    for _ in range(10):
        power = [[2 * a + b, a + 2 * b] for a, b in power]
    says(8, 2, power)
    total = sum(Fraction(1, n * (n + 2)) for n in range(1, 51))
    says(9, 2, f"{total}.")
    says(9, 1, f"{Fraction(3, 4)}.")
    widths = [x / 1000 for x in range(1, 3464)]
    assert max(2 * x * (12 - x * x) for x in widths) == pytest.approx(32)
    assert max(4 * x + 2 * (12 - x * x) for x in widths) == pytest.approx(26)
    says(10, 1, "32.")
    says(10, 2, "26.")


def test_code_of_intervals_brackets_and_search() -> None:
    names = code(1, 1, 2)
    given = [(5, 7), (1, 10), (12, 13), (13, 14)]
    assert names["merge"](given) == [(1, 10), (12, 14)] and given[0] == (5, 7)
    assert names["gaps"](given, 0, 20) == [(0, 1), (10, 12), (14, 20)]
    assert names["gaps"](given, 2, 9) == [] and names["gaps"]([], 0, 5) == [(0, 5)]
    names = code(2, 1, 2)
    cases = {"a(b[c]{})": -1, "": -1, "(]": 1, "((": 0, "())": 2, "[(])": 2, "x(y[z": 1}
    for text, fault in cases.items():
        assert names["is_balanced"](text) == (fault == -1)
        assert names["first_fault"](text) == fault
    names = code(4, 1, 2)
    values = [1, 2, 2, 2, 5, 9]
    for target in range(11):
        place = next((i for i, v in enumerate(values) if v >= target), len(values))
        assert names["lower_bound"](values, target) == place
        assert names["count"](values, target) == values.count(target)


def test_code_of_caches() -> None:
    cache = code(3, 1)["LRUCache"](2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    now = [0.0]
    timed = code(3, 2)["LRUCache"](2, ttl=10, clock=lambda: now[0])
    timed.put("a", 1)
    now[0] = 10.0
    assert timed.get("a") == 1
    now[0] = 10.5
    assert timed.get("a") is None


def test_what_programs_print_is_what_the_references_say() -> None:
    def printed(text: str) -> str:
        held = io.StringIO()
        with contextlib.redirect_stdout(held):
            for block in re.findall(r"```python\n(.*?)```", text, re.S):
                exec(block, {})
        return held.getvalue()

    assert printed(find("coding", 5).turns[0]) == "[1]\n[1, 2]\n"
    assert "`[1]` and then `[1, 2]`" in reference("coding", 5, 1)
    add = code(5, 1)["add"]
    assert (add(1), add(2), add(3, [0])) == ([1], [2], [0, 3])
    assert printed(find("coding", 5).turns[1]) == "[2, 2, 2]\n"
    assert "`[2, 2, 2]`" in reference("coding", 5, 2)
    assert printed(reference("coding", 5, 2)) == "[0, 1, 2]\n"
    block = re.findall(r"```python\n(.*?)```", find("coding", 10).turns[0], re.S)[0]
    names: dict[str, Any] = {}
    exec(block, names)
    exec(block.replace("range(n)", "range(i)").replace("work", "less"), names)
    assert f"returns {names['work'](1000)}" in reference("coding", 10, 2)
    assert f"= {names['less'](1000)}" in reference("coding", 10, 2)


def test_code_of_words(tmp_path: Path) -> None:
    names = code(6, 1, 2)
    text = "Über den Fluß, über den Berg: 3 x_y x!\nDen Berg."
    expected = [("den", 3), ("berg", 2), ("x", 2), ("über", 2)]
    assert names["top_words"](text, 4) == expected
    (tmp_path / "t").write_text(text, "utf-8")
    assert names["top_words_of_file"](tmp_path / "t", 4) == expected


def test_code_of_queries() -> None:
    base = sqlite3.connect(":memory:")
    base.executescript("""
        CREATE TABLE customers(id, name); CREATE TABLE orders(id, customer_id, day, amount);
        INSERT INTO customers VALUES (1,'Zoe'),(2,'Ann'),(3,'Bob'),(4,'Ann');
        INSERT INTO orders VALUES (1,1,'2025-12-31',5),(2,2,'2024-12-31',7),(3,3,'2026-01-01',3),
          (4,1,'2023-05-05',2);""")
    queries = [re.findall(r"```sql\n(.*?)```", reference("coding", 7, t), re.S)[0] for t in (1, 2)]
    assert base.execute(queries[0]).fetchall() == [("Ann",), ("Ann",), ("Bob",)]
    ranked = base.execute(queries[1]).fetchall()
    base.close()
    assert ranked == [("Ann", 7, 1), ("Zoe", 7, 1), ("Bob", 3, 3)]


def test_code_of_grids_and_numerals() -> None:
    names = code(8, 1, 2)
    assert names["shortest"](["..#", ".#.", "..."]) == 4
    assert names["shortest"](["..#", "##.", "..."]) == -1
    assert names["shortest"](["."]) == 0 and names["shortest"](["#"]) == -1
    assert names["cheapest"](["191", "191", "111"]) == 4
    assert names["cheapest"](["12", "91"]) == 3
    names = code(9, 1, 2)
    assert [names["to_roman"](n) for n in (4, 1994, 3999)] == ["IV", "MCMXCIV", "MMMCMXCIX"]
    assert all(names["from_roman"](names["to_roman"](n)) == n for n in range(1, 4000))
    for number in (0, 4000):
        with pytest.raises(ValueError, match="no Roman numeral"):
            names["to_roman"](number)


def test_extraction_and_physics() -> None:
    text = find("extraction", 10).turns[0].split("'")[1]
    sentences = [re.findall(r"[a-z]+", s.lower()) for s in re.split(r"[.!]", text) if s.strip()]
    assert reference("extraction", 10, 1) == " ".join(str(len(s)) for s in sentences)
    longest = sorted(w for s in sentences for w in s if len(w) == max(map(len, s)))
    assert reference("extraction", 10, 2) == ", ".join(longest)
    assert 4 * 8.5 + 3 + 4 == 41 and reference("extraction", 6, 2).startswith("41 hours")
    assert f"{math.sqrt(2 * 4.9 * 3):.2f}" in reference("stem", 5, 1)
    slower = 9.8 * (0.5 - 0.2 * math.cos(math.radians(30)))
    assert f"{math.sqrt(2 * slower * 3):.2f}" in reference("stem", 5, 2)
    assert f"{1 - 0.95**20:.2f}" in reference("stem", 8, 2)
