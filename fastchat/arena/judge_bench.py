"""Answers and verdicts for simulated battles: models behind endpoints, judged by a model or a rule.

Part of the command `simulate`: how a model is asked, and what makes a verdict, is `llm_judge`'s.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import orjson
import pydantic

from fastchat.arena.simulation import Fought, Planned
from fastchat.errors import DataError, ModelError
from fastchat.llm_judge.answering import AnswerPlan, answer
from fastchat.llm_judge.asking import Model
from fastchat.llm_judge.judge import Judge
from fastchat.llm_judge.matches import Match
from fastchat.llm_judge.prompts import JudgePrompt, prompt_name
from fastchat.llm_judge.records import Answer, PairJudgment, Question
from fastchat.store.arena_records import Outcome

Rule = Literal["longer", "shorter", "reference"]
Decide = Callable[[Question, Answer, Answer], Outcome]


def read_questions(path: Path) -> tuple[Question, ...]:
    """The first turn of each question of a file: rows with `turns`, or with `prompt` alone.

    Raises:
        DataError: the file is missing, empty, or a line is no question; the message says which.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"--question-file {path} cannot be read: {error.strerror}.") from None
    found: list[Question] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
            turns = row.get("turns") or [row["prompt"]]
            base = {"question_id": number, "category": "general"}
            question = Question.model_validate({**base, **row, "turns": turns})
        except (orjson.JSONDecodeError, pydantic.ValidationError, KeyError, AttributeError):
            raise DataError(
                f"{path.name}:{number} is no question; give "
                '{"question_id": 1, "category": "general", "turns": ["..."]}.'
            ) from None
        found.append(first_turn(question))
    if not found:
        raise DataError(f"--question-file {path} holds no question.")
    return tuple(found)


def first_turn(question: Question) -> Question:
    """The question with its first turn alone."""
    reference = question.reference[:1] if question.reference else None
    return question.model_copy(update={"turns": question.turns[:1], "reference": reference})


class JudgeBench:
    """Lets two models answer a question and a judge decide."""

    def __init__(
        self,
        questions: tuple[Question, ...],
        models: Mapping[str, Model],
        decide: "ModelJudge | Decide",
        *,
        max_tokens: int = 1024,
        known: Mapping[str, Mapping[int, Answer]] | None = None,
    ) -> None:
        """
        Args:
            models: whom to ask, by name.
            known: answers that are there already, by model and question.
        """
        self._questions = questions
        self._models = models
        self._decide = decide
        self._plan = AnswerPlan(questions=questions, max_tokens=max_tokens)
        self._known = {name: dict((known or {}).get(name, {})) for name in models}

    async def fight(self, planned: Planned) -> Fought:
        question = self._questions[planned.question]
        a = await self._answer(planned.first, question)
        b = await self._answer(planned.second, question)
        if isinstance(self._decide, ModelJudge):
            outcome = await self._decide.outcome(question, a, b)
        else:
            outcome = self._decide(question, a, b)
        asked = question.turns[0]
        said = tuple((("user", asked), ("assistant", text_of(side))) for side in (a, b))
        return Fought(planned=planned, said=(said[0], said[1]), outcome=outcome)

    async def _answer(self, name: str, question: Question) -> Answer:
        known = self._known[name].get(question.question_id)
        if known is None:
            known = await answer(self._models[name], question, self._plan)
            if not text_of(known):
                raise ModelError(f"{name} gave an empty answer")
            self._known[name][question.question_id] = known
        return known


class ModelJudge:
    """A model that sees both answers in both orders; what it decides once each way is a tie."""

    def __init__(self, judge: Judge, prompts: Mapping[str, JudgePrompt]) -> None:
        self._judge = judge
        self._prompts = prompts

    async def outcome(self, question: Question, a: Answer, b: Answer) -> Outcome:
        """What the judge says; raises ModelError where its verdict cannot be read."""
        reference = _reference(question)
        name = prompt_name("pairwise-all", is_reference=reference is not None, turn=1)
        if name not in self._prompts:
            raise DataError(f"the judge prompts have none that is named {name}.")
        match = Match(
            question=question,
            turn=1,
            answers=(a, b),
            prompt=self._prompts[name],
            reference=reference,
        )
        row = await self._judge.decide(match)
        assert isinstance(row, PairJudgment)
        winner = row.winner
        if winner == "error":
            raise ModelError("the judge's verdict cannot be read")
        outcomes: Mapping[str, Outcome] = {"model_1": "leftvote", "model_2": "rightvote"}
        return outcomes.get(winner, "tievote")


def _reference(question: Question) -> Answer | None:
    """The question's own solution as an answer, where its category is judged beside one."""
    if not question.needs_reference or not question.reference or not question.reference[0]:
        return None
    row = {"question_id": question.question_id, "model_id": "reference"}
    return Answer.model_validate(
        {**row, "choices": [{"index": 0, "turns": [question.reference[0]]}]}
    )


def text_of(given: Answer) -> str:
    """The first turn of an answer."""
    return given.choices[0].turns[0] if given.choices[0].turns else ""


def rule_of(name: Rule) -> Decide:
    """A rule as a judge: the longer or shorter answer, or the one with more of the reference."""

    def measure(question: Question, given: Answer) -> float:
        text = text_of(given)
        if name == "reference":
            wanted = set((question.reference or ("",))[0].lower().split())
            return len(wanted & set(text.lower().split())) / max(1, len(wanted))
        return float(len(text) if name == "longer" else -len(text))

    def decide(question: Question, a: Answer, b: Answer) -> Outcome:
        first, second = measure(question, a), measure(question, b)
        return "leftvote" if first > second else "rightvote" if second > first else "tievote"

    return decide
