from pathlib import Path
from typing import Any

import orjson
import pytest

from fastchat.llm_judge.folders import read_answers
from fastchat.llm_judge.lines import encode, read_rows
from fastchat.llm_judge.records import Answer, PairJudgment, Question, Row, SingleJudgment

ANSWER: dict[str, Any] = {
    "question_id": 81,
    "answer_id": "abc",
    "model_id": "m",
    "choices": [{"index": 0, "turns": ["one", "two"], "mine": 1}],
    "tstamp": 1.5,
}
SINGLE: dict[str, Any] = {
    "question_id": 81,
    "model": "m",
    "judge": ["gpt-4", "single-v1"],
    "user_prompt": "p",
    "judgment": "Rating: [[8]]",
    "score": 8,
    "turn": 1,
    "tstamp": 1.0,
}
PAIR: dict[str, Any] = {
    "question_id": 81,
    "model_1": "m",
    "model_2": "n",
    "g1_winner": "model_1",
    "g2_winner": "tie",
    "judge": ["gpt-4", "pair-v2"],
    "g1_user_prompt": "p",
    "g1_judgment": "[[A]]",
    "g2_user_prompt": "q",
    "g2_judgment": "[[C]]",
    "turn": 2,
    "tstamp": 1.0,
}
QUESTION: dict[str, Any] = {
    "question_id": 81,
    "category": "math",
    "turns": ["a", "b"],
    "reference": ["r", ""],
    "required_temperature": 0.3,
}


@pytest.mark.parametrize(
    ("kind", "value"),
    [(Answer, ANSWER), (SingleJudgment, SINGLE), (PairJudgment, PAIR), (Question, QUESTION)],
)
def test_a_row_survives_with_fields_we_do_not_know(kind: type[Row], value: dict[str, Any]) -> None:
    value = {**value, "unknown": {"deep": [None, 1]}}
    assert orjson.loads(encode(kind.model_validate(value))) == value


def test_a_pair_is_won_in_both_orders_or_tied() -> None:
    def winner(g1: str, g2: str) -> str:
        return PairJudgment.model_validate({**PAIR, "g1_winner": g1, "g2_winner": g2}).winner

    assert winner("model_1", "model_1") == "model_1"
    assert winner("model_1", "model_2") == "tie"
    assert winner("model_2", "tie") == "tie"
    assert winner("model_2", "error") == "error"


def test_temperatures_are_the_categorys_unless_the_question_says() -> None:
    assert Question.model_validate(QUESTION).temperature == 0.3
    given = {**QUESTION, "required_temperature": None}
    assert Question.model_validate(given).temperature == 0.0
    assert Question.model_validate({**given, "category": "stem"}).temperature == 0.1
    assert Question.model_validate({**given, "category": "new"}).temperature == 0.7


@pytest.mark.parametrize("turns", [["one"], ["one", "$ERROR$"], ["ERROR", "two"]])
def test_an_answer_with_a_failure_or_a_missing_turn_is_not_complete(turns: list[str]) -> None:
    question = Question.model_validate(QUESTION)
    assert Answer.model_validate(ANSWER).is_complete(question)
    choices = [{"index": 0, "turns": turns}]
    assert not Answer.model_validate({**ANSWER, "choices": choices}).is_complete(question)
    assert not Answer.model_validate(ANSWER).is_complete(question, num_choices=2)


@pytest.mark.parametrize(("bench", "n"), [("mt_bench", 30), ("vicuna_bench", 10)])
def test_the_published_files_are_read_whole(shared: Path, bench: str, n: int) -> None:
    folder = shared / "data" / bench
    held = read_rows(folder / "question.jsonl", Question, lambda q: q.question_id)
    assert (len(held.rows), held.report()) == (80, [])
    references = read_answers(folder / "reference_answer" / "gpt-4.jsonl")
    assert (len(references.rows), references.report()) == (n, [])
    questions = {q.question_id: q for q in held.rows}
    assert all(a.is_complete(questions[a.question_id]) for a in references.rows)
