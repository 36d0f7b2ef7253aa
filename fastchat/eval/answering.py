"""Questions -> a table of answers, kept row by row; what has an answer is not asked again."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastchat.errors import ModelError
from fastchat.eval.tables import KEYS, Answer, Question
from fastchat.llm_judge.asking import Model, Request
from fastchat.llm_judge.lines import Appender, put_in_order, read_rows
from fastchat.llm_judge.running import Outcome, run_all, say
from fastchat.message import Message

REMEDY = "What is missing is answered by the same command again."


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPlan:
    """What is to be answered, how, and under which name."""

    questions: tuple[Question, ...]
    model_id: str
    path: Path
    system_message: str = ""
    temperature: float = 0.7
    max_tokens: int = 1024
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def missing(self) -> "tuple[Question, ...]":
        """The questions without a whole answer of this model; says what is wrong with the file."""
        held = read_rows(self.path, Answer, KEYS[Answer])
        say(held.report())
        known = {
            row.question_id for row in held.rows if row.is_whole and row.model_id == self.model_id
        }
        return tuple(q for q in self.questions if q.question_id not in known)


async def answer_all(
    model: Model, plan: AnswerPlan, todo: Sequence[Question], *, concurrency: int
) -> Outcome:
    """Answers `todo`; each row is in the file as soon as it is there."""
    with Appender(plan.path) as file:

        async def work(question: Question) -> None:
            file.write(await _answer(model, question, plan))

        return await run_all(
            todo, work, name_of=lambda q: f"question {q.question_id}", concurrency=concurrency
        )


async def _answer(model: Model, question: Question, plan: AnswerPlan) -> Answer:
    said = [Message(role="user", text=question.text)]
    if plan.system_message:
        said.insert(0, Message(role="system", text=plan.system_message))
    reply = await model.ask(
        Request(
            messages=tuple(said),
            temperature=plan.temperature,
            max_tokens=plan.max_tokens,
            seed=question.question_id if plan.temperature > 0 else None,
        )
    )
    if not reply.text.strip():
        raise ModelError("an empty answer")
    return Answer.model_validate(
        {
            "answer_id": secrets.token_hex(11),
            "question_id": question.question_id,
            "model_id": plan.model_id,
            "text": reply.text.strip(),
            "metadata": {**plan.metadata, "finish_reason": reply.finish_reason},
        }
    )


def finish(plan: AnswerPlan, outcome: Outcome | None) -> int:
    """Puts the table in order of questions and says how the run went; the exit status."""
    if plan.path.exists():
        put_in_order(plan.path, Answer, KEYS[Answer], lambda row: row.question_id)
        n = len(read_rows(plan.path, Answer, KEYS[Answer]).rows)
        print(f"{plan.path}: {n} answers")
    told = outcome.report(REMEDY) if outcome else []
    say(told)
    return 1 if told else 0
