from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from fastchat.llm_judge.scoring import Scoring, without_reasoning

READ: TypeAdapter[Any] = TypeAdapter(Scoring)


async def score(answer: str, reference: str = "", **rule: Any) -> float:
    return (await READ.validate_python(rule).score(answer, reference)).score


@pytest.mark.parametrize(
    ("answer", "reference", "rule", "expected"),
    [
        ("Paris", "Paris", {}, 1),
        ("  Paris\n", "Paris", {}, 1),
        ("paris", "Paris", {}, 0),
        ("paris", "Paris", {"ignore_case": True}, 1),
        ("Paris.", "Paris", {"ignore_punctuation": True}, 1),
        ("Lyon", "Paris\nLyon", {}, 1),
        ("The answer is 41, no, 42", "42", {"extract": r"\d+"}, 1),
        ("Answer: 7", "7", {"extract": r"Answer: (\d+)"}, 1),
        ("none", "7", {"extract": r"\d+"}, 0),
        ("", "7", {}, 0),
        ("Zu\u0308rich", "Zürich", {}, 1),
    ],
)
async def test_exact_match(
    answer: str, reference: str, rule: dict[str, Any], expected: int
) -> None:
    assert await score(answer, reference, kind="exact", **rule) == expected


@pytest.mark.parametrize(
    ("answer", "rule", "expected"),
    [
        ("a b c", {"pattern": "b"}, 1),
        ("a b c", {"pattern": "b", "full": True}, 0),
        (" abc ", {"pattern": "[abc]+", "full": True}, 1),
        ("sorry", {"pattern": "(?i)SORRY", "absent": True}, 0),
        ("fine", {"pattern": "(?i)SORRY", "absent": True}, 1),
    ],
)
async def test_patterns(answer: str, rule: dict[str, Any], expected: int) -> None:
    assert await score(answer, kind="regex", **rule) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"n": 3}', 1),
        ('```json\n{"n": 3}\n```', 1),
        ('{"n": "3"}', 0),
        ("n = 3", 0),
        ("", 0),
        ("NaN", 0),
    ],
)
async def test_json_and_its_schema(answer: str, expected: int) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert await score(answer, kind="json", schema=schema) == expected
    if expected:
        assert await score(answer, '{"n": 3.0}', kind="json") == 1
        assert await score(answer, '{"n": 4}', kind="json") == 0
    assert await score('```json\n{"n": 3}\n```', kind="json", fenced=False) == 0


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "regex", "pattern": "("},
        {"kind": "exact", "extract": "["},
        {"kind": "json", "schema": {"type": "nothing"}},
        {"kind": "code", "tests": "pass", "seconds": 0},
        {"kind": "guess"},
        {"kind": "exact", "ignore_cas": True},
    ],
)
def test_a_rule_that_cannot_be_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        READ.validate_python(rule)


def test_what_a_model_thinks_is_not_its_answer() -> None:
    assert without_reasoning("<think>4? 5?</think>\n42") == "42"
    assert without_reasoning("<think>endless") == ""


def test_another_rule_or_reference_is_another_score() -> None:
    one = READ.validate_python({"kind": "exact"})
    assert one.hash("a") == one.hash("a") != one.hash("b")
    assert one.hash("a") != READ.validate_python({"kind": "exact", "ignore_case": True}).hash("a")
