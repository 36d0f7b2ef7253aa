from pathlib import Path

import pytest

from fastchat.llm_judge.folders import Bench
from fastchat.llm_judge.matches import Mode, make_matches, missing, pairs_of
from fastchat.llm_judge.prompts import load_prompts
from fastchat.llm_judge.records import Answer

BENCH = Bench(data_dir=Path("/nowhere"), name="fastchat_bench")
QUESTIONS = BENCH.questions()
REFERENCES = {row.question_id: row for row in BENCH.references("any").rows}
PROMPTS = load_prompts(None, Path("/nowhere"))
MODELS = ("m", "n", "o")


def answer_of(model: str, number: int, n_turns: int = 2) -> Answer:
    turns = [f"{model} says {turn} to {number}" for turn in range(1, n_turns + 1)]
    choices = [{"index": 0, "turns": turns}]
    return Answer.model_validate({"question_id": number, "model_id": model, "choices": choices})


ANSWERS = {m: {q.question_id: answer_of(m, q.question_id) for q in QUESTIONS} for m in MODELS}


def matches(mode: Mode, questions=QUESTIONS, *, answers=ANSWERS, references=REFERENCES):
    groups = pairs_of(mode, MODELS, "n")
    return make_matches(
        mode, questions, groups, answers=answers, references=references, prompts=PROMPTS
    )


@pytest.mark.parametrize(
    ("mode", "n"), [("single", 3 * 160), ("pairwise-baseline", 2 * 160), ("pairwise-all", 3 * 160)]
)
def test_the_published_numbers_of_matches(mode: Mode, n: int) -> None:
    assert len(matches(mode)) == n


def test_prompts_come_in_the_published_order_by_category_and_turn() -> None:
    made = matches("single")
    names = list(dict.fromkeys(match.prompt.name for match in made))
    assert names == [
        *("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
    ]
    for match in made:
        is_reference = match.question.category in ("math", "reasoning", "coding")
        assert ("math" in match.prompt.name) == is_reference == (match.reference is not None)
        assert match.prompt.name.endswith("multi-turn") == (match.turn == 2)


def test_every_prompt_is_filled_and_both_orders_swap_the_answers() -> None:
    for mode in ("single", "pairwise-all"):
        for match in matches(mode):
            for shown in match.games():
                assert match.prompt.fields() <= set(shown)
                assert match.prompt.fill(shown)
    first, second = matches("pairwise-all")[-1].games()
    assert first["answer_a_2"] == second["answer_b_2"] != first["answer_b_2"]
    assert first["ref_answer_2"] == second["ref_answer_2"]


def test_questions_without_two_turns_are_judged_by_the_first() -> None:
    question = QUESTIONS[0].model_copy(update={"turns": ("only one",)})
    answers = {m: {question.question_id: answer_of(m, question.question_id, 1)} for m in MODELS}
    assert {m.turn for m in matches("single", [question], answers=answers)} == {1}


def test_what_is_missing_is_counted_and_left_out() -> None:
    answers = {**ANSWERS, "m": {k: v for k, v in ANSWERS["m"].items() if k != 201}}
    answers["n"] = {**ANSWERS["n"], 202: answer_of("n", 202, 1)}
    references = {k: v for k, v in REFERENCES.items() if k < 240}
    told = list(missing(QUESTIONS, answers, references))
    assert told[0].startswith("m has no whole answer to 1 question: 201; run gen_model_answer")
    assert told[1].startswith("n has no whole answer to 1 question: 202;")
    assert told[2].startswith("coding, math needs reference answers, and there is none for 11 q")
    left = matches("single", answers=answers, references=references)
    assert len(left) == 3 * 160 - 2 - 2 - 3 * 22
