"""Questions -> answer files: every question a conversation of its own, all of them at once."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastchat import __version__
from fastchat.errors import ModelError
from fastchat.llm_judge.asking import Model, Reply, Request
from fastchat.llm_judge.folders import read_answers
from fastchat.llm_judge.lines import Appender, put_in_order
from fastchat.llm_judge.records import Answer, Question
from fastchat.llm_judge.running import Outcome, run_all
from fastchat.message import Message

CHOICES_PER_QUESTION = 64
"""Seeds of one question; more choices than this would repeat those of the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPlan:
    """What is still to be answered, and how."""

    questions: tuple[Question, ...]
    num_choices: int = 1
    max_tokens: int = 1024
    seed: int = 0
    temperature: Callable[[Question], float] = field(default=lambda q: q.temperature)


def plan_answers(
    answers: Sequence[Answer], questions: Sequence[Question], num_choices: int, *, is_forced: bool
) -> tuple[Question, ...]:
    """The questions that have no whole answer yet, or all of them."""
    known = {answer.question_id: answer for answer in answers}
    return tuple(
        q
        for q in questions
        if is_forced
        or not (answer := known.get(q.question_id))
        or not answer.is_complete(q, num_choices)
    )


async def answer_all(
    model: Model,
    plan: AnswerPlan,
    file: Appender,
    *,
    concurrency: int,
    is_quiet: bool = False,
) -> Outcome:
    """Answers what the plan asks for; each row is in the file as soon as it is whole."""

    async def work(question: Question) -> None:
        file.write(await answer(model, question, plan))

    return await run_all(
        plan.questions,
        work,
        name_of=lambda q: f"question {q.question_id}",
        concurrency=concurrency,
        is_quiet=is_quiet,
    )


async def answer(model: Model, question: Question, plan: AnswerPlan) -> Answer:
    """All choices of one question, turn after turn.

    Raises FastChatError when a turn fails; nothing of the answer is kept then.
    """
    temperature = plan.temperature(question)
    choices: list[dict[str, object]] = []
    n_prompt = n_new = 0
    for index in range(plan.num_choices):
        seed = plan.seed + question.question_id * CHOICES_PER_QUESTION + index
        replies = await _conversation(model, question, temperature, seed=seed, plan=plan)
        n_prompt += sum(reply.prompt_tokens for reply in replies)
        n_new += sum(reply.completion_tokens for reply in replies)
        choices.append(
            {
                "index": index,
                "turns": [reply.text.strip() for reply in replies],
                "finish_reasons": [reply.finish_reason for reply in replies],
                "seed": seed,
            }
        )
    return Answer.model_validate(
        {
            "question_id": question.question_id,
            "answer_id": secrets.token_hex(11),
            "model_id": model.name,
            "choices": choices,
            "tstamp": time.time(),
            "gen_params": {"temperature": temperature, "max_new_tokens": plan.max_tokens},
            "usage": {"prompt_tokens": n_prompt, "completion_tokens": n_new},
            "fastchat_version": __version__,
        }
    )


async def _conversation(
    model: Model, question: Question, temperature: float, *, seed: int, plan: AnswerPlan
) -> list[Reply]:
    """One reply a turn; each turn sees those before it."""
    said: list[Message] = []
    replies: list[Reply] = []
    for i, turn in enumerate(question.turns, 1):
        said.append(Message(role="user", text=turn))
        reply = await model.ask(
            Request(
                messages=tuple(said),
                temperature=temperature,
                max_tokens=plan.max_tokens,
                seed=seed if temperature > 0 else None,
                n_turns_to_come=len(question.turns) - i,
            )
        )
        if reply.finish_reason == "content_filter":
            raise ModelError("the endpoint's content filter withheld the answer")
        said.append(Message(role="assistant", text=reply.text.strip()))
        replies.append(reply)
    return replies


def finish(path: Path) -> str:
    """Puts the answer file in order of questions; says what it holds."""
    put_in_order(path, Answer, lambda row: row.question_id, lambda row: row.question_id)
    rows = read_answers(path).rows
    n_empty = sum(any(not t for c in row.choices for t in c.turns) for row in rows)
    empty = f", {n_empty} with an empty turn" if n_empty else ""
    return f"{path}: {len(rows)} answers{empty}"
