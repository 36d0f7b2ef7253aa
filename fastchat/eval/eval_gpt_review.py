"""Lets a reviewer compare two tables of answers, question by question.

python3 -m fastchat.eval.eval_gpt_review -a answer_gpt35.jsonl answer_vicuna-13b.jsonl
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastchat.errors import DataError, UsageError
from fastchat.llm_judge.endpoints import UncachedEndpointSettings
from fastchat.settings import Group, alias, run_command

if TYPE_CHECKING:
    from fastchat.eval.reviewing import Case

PROG = "python3 -m fastchat.eval.eval_gpt_review"
REMEDY = "Results so far are kept; the same command reviews only what is missing."


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewEndpoint(UncachedEndpointSettings):
    """The published number of tries."""

    max_tries: int = 5
    """Tries of one request; only what may pass (429, 5xx, timeouts) is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewSettings:
    """Reviews pairs of answers; a second run asks only for what is missing."""

    question_file: Annotated[Path, alias("-q", "--question")] = Path("table/question.jsonl")
    """Table of questions; those of `table/` ship with the package."""
    answer_file_list: Annotated[tuple[Path, Path] | None, alias("-a", "--answer-list")] = None
    """Must be given: the two tables of answers, that of Assistant 1 first."""
    prompt_file: Annotated[Path, alias("-p")] = Path("table/prompt.jsonl")
    """Table of prompts."""
    reviewer_file: Annotated[Path, alias("-r", "--rule")] = Path("table/reviewer.jsonl")
    """Table of reviewers: which prompt for which category."""
    output_review_file: Annotated[Path, alias("-o", "--output")] = Path("review.jsonl")
    """Table of reviews to write."""
    model: str = "gpt-4"
    """Who reviews: the name sent to the server."""
    max_tokens: int = 1024
    """Longest review, in tokens."""
    both_orders: bool = False
    """Review the answers in the other order as well, in a table whose name ends in `_swapped`."""
    retry_unparsed: bool = False
    """Ask again where a review did not begin with two numbers."""
    debug: bool = False
    """Show tracebacks."""
    endpoint: Group[ReviewEndpoint] = field(default_factory=ReviewEndpoint)


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when everything is reviewed."""
    return run_command(ReviewSettings, _run, argv, prog=PROG)


def _run(settings: ReviewSettings) -> int:
    from fastchat.eval.reviewing import finish, not_reviewed
    from fastchat.llm_judge.running import say

    settings.endpoint.check()
    if settings.max_tokens < 1:
        raise UsageError(f"--max-tokens {settings.max_tokens}: give 1 or more.")
    cases, told = _cases(settings)
    path = settings.output_review_file
    runs = [(path, cases)]
    if settings.both_orders:
        swapped = path.with_name(f"{path.stem}_swapped{path.suffix}")
        runs.append((swapped, [case.swapped for case in cases]))
    for path, wanted in runs:
        todo = not_reviewed(wanted, path, retry_unparsed=settings.retry_unparsed)
        say([f"{path}: {len(wanted) - len(todo)} of {len(wanted)} are reviewed already."])
        if todo:
            told += asyncio.run(_review(settings, todo, path))
        if path.exists():
            say(finish(path))
    say(told)
    return 1 if told else 0


def _cases(settings: ReviewSettings) -> "tuple[list[Case], list[str]]":
    """What is to be reviewed, and what stands in the way of the rest."""
    from fastchat.eval.reviewing import make_cases
    from fastchat.eval.tables import Answer, Prompt, Question, Reviewer, read_table

    if settings.answer_file_list is None:
        raise UsageError("Give -a/--answer-file-list with two tables of answers.")
    questions = read_table(settings.question_file, Question)
    answers = [
        {row.question_id: row for row in read_table(path, Answer)}
        for path in settings.answer_file_list
    ]
    reviewers = read_table(settings.reviewer_file, Reviewer)
    prompts = read_table(settings.prompt_file, Prompt)
    cases, lacking = make_cases(questions, answers, reviewers, prompts)
    if not cases:
        raise DataError("No question of the table has an answer in both files.")
    if not lacking:
        return cases, []
    some = ", ".join(map(str, lacking[:6])) + (", …" if len(lacking) > 6 else "")
    return cases, [
        f"{len(lacking)} questions lack an answer in one of the files ({some}); run what made the "
        "answers again, then this."
    ]


async def _review(settings: ReviewSettings, cases: "Sequence[Case]", path: Path) -> list[str]:
    from fastchat.eval.reviewing import review_all
    from fastchat.llm_judge.account import Account
    from fastchat.llm_judge.asking import ApiModel
    from fastchat.llm_judge.endpoints import endpoint_of

    account = Account(max_cost=settings.endpoint.max_cost)
    endpoint = endpoint_of(settings.model, settings.endpoint)
    model = ApiModel(settings.model, endpoint, settings.endpoint, account=account)
    try:
        outcome = await review_all(
            model,
            cases,
            path,
            max_tokens=settings.max_tokens,
            concurrency=settings.endpoint.parallel,
        )
    finally:
        await model.close()
    return outcome.report(REMEDY)


if __name__ == "__main__":
    sys.exit(main())
