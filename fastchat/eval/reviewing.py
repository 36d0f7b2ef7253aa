"""Two tables of answers -> a table of reviews: who reviews what, and how they are asked."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastchat.errors import DataError, ModelError
from fastchat.eval.tables import KEYS, Answer, Prompt, Question, Review, Reviewer
from fastchat.eval.totals import parse_score
from fastchat.llm_judge.asking import Model, Request
from fastchat.llm_judge.lines import Appender, put_in_order, read_rows
from fastchat.llm_judge.running import Outcome, run_all, say
from fastchat.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question with two answers, its reviewer and the reviewer's prompt."""

    question: Question
    first: Answer
    second: Answer
    reviewer: Reviewer
    prompt: Prompt

    @property
    def key(self) -> tuple[object, ...]:
        """Of the review that this becomes."""
        ids = (self.first.answer_id, self.second.answer_id)
        return (self.question.question_id, *ids, self.reviewer.reviewer_id)

    @property
    def swapped(self) -> "Case":
        """The same answers in the other order."""
        return Case(
            question=self.question,
            first=self.second,
            second=self.first,
            reviewer=self.reviewer,
            prompt=self.prompt,
        )


def make_cases(
    questions: Sequence[Question],
    answers: Sequence[Mapping[int, Answer]],
    reviewers: Sequence[Reviewer],
    prompts: Sequence[Prompt],
) -> tuple[list[Case], list[int]]:
    """What can be reviewed, and the questions that lack an answer.

    Raises:
        DataError: a reviewer's prompt is not in the table.
    """
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    cases: list[Case] = []
    lacking: list[int] = []
    for question in questions:
        pair = [table.get(question.question_id) for table in answers]
        if not (pair[0] and pair[1] and pair[0].is_whole and pair[1].is_whole):
            lacking.append(question.question_id)
            continue
        reviewer = reviewer_of(question, reviewers)
        if reviewer.prompt_id not in by_id:
            raise DataError(
                f"Reviewer {reviewer.reviewer_id} asks with prompt {reviewer.prompt_id}, which the "
                f"table of prompts lacks; it has {', '.join(map(str, by_id))}."
            )
        prompt = by_id[reviewer.prompt_id]
        cases.append(
            Case(
                question=question,
                first=pair[0],
                second=pair[1],
                reviewer=reviewer,
                prompt=prompt,
            )
        )
    return cases, lacking


def reviewer_of(question: Question, reviewers: Sequence[Reviewer]) -> Reviewer:
    """Published: the reviewer of the question's category, else the first."""
    of_category = [r for r in reviewers if r.category == question.category]
    return (of_category or list(reviewers))[0]


def not_reviewed(cases: Iterable[Case], path: Path, *, retry_unparsed: bool) -> list[Case]:
    """The cases that have no review yet; says what is wrong with the file."""
    held = read_rows(path, Review, KEYS[Review])
    say(held.report())
    known = {row.key for row in held.rows if row.is_parsed or not retry_unparsed}
    return [case for case in cases if case.key not in known]


async def review_all(
    model: Model, cases: Sequence[Case], path: Path, *, max_tokens: int, concurrency: int
) -> Outcome:
    """Reviews the cases; each row is in the file as soon as it is there."""
    with Appender(path) as file:

        async def work(case: Case) -> None:
            file.write(await _review(model, case, max_tokens))

        return await run_all(
            cases,
            work,
            name_of=lambda case: f"question {case.question.question_id}",
            concurrency=concurrency,
        )


async def _review(model: Model, case: Case, max_tokens: int) -> Review:
    asked = case.prompt.fill(case.question.text, case.first.text, case.second.text)
    reply = await model.ask(
        Request(
            messages=(
                Message(role="system", text=case.prompt.system_prompt),
                Message(role="user", text=asked),
            ),
            temperature=case.reviewer.metadata.temperature,
            max_tokens=max_tokens,
        )
    )
    if not reply.text.strip():
        raise ModelError("an empty review")
    return Review(
        review_id=secrets.token_hex(11),
        question_id=case.question.question_id,
        answer1_id=case.first.answer_id,
        answer2_id=case.second.answer_id,
        text=reply.text.strip(),
        score=parse_score(reply.text),
        reviewer_id=case.reviewer.reviewer_id,
        metadata={"model": reply.model or model.name, "finish_reason": reply.finish_reason},
    )


def finish(path: Path) -> list[str]:
    """Puts the reviews in order of questions; names those without scores."""
    put_in_order(path, Review, KEYS[Review], lambda row: row.question_id)
    rows = read_rows(path, Review, KEYS[Review]).rows
    print(f"{path}: {len(rows)} reviews")
    bare = [str(row.question_id) for row in rows if not row.is_parsed]
    if not bare:
        return []
    return [
        f"{path}: {len(bare)} reviews do not begin with two numbers and count nowhere (questions "
        f"{', '.join(bare[:8])}{', …' if len(bare) > 8 else ''}); --retry-unparsed asks again, or "
        "write the two numbers into their `score`."
    ]
