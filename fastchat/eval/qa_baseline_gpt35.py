"""Answers the table of questions with ChatGPT, or any model behind an OpenAI-compatible server.

python3 -m fastchat.eval.qa_baseline_gpt35 -o table/answer/answer_gpt35.jsonl
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastchat.errors import UsageError
from fastchat.llm_judge.endpoints import UncachedEndpointSettings
from fastchat.settings import Group, alias, run_command

if TYPE_CHECKING:
    from fastchat.eval.answering import AnswerPlan
    from fastchat.eval.tables import Question
    from fastchat.llm_judge.running import Outcome

PROG = "python3 -m fastchat.eval.qa_baseline_gpt35"
SYSTEM_MESSAGE = "You are a helpful assistant."


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineEndpoint(UncachedEndpointSettings):
    """The published numbers of requests and tries."""

    parallel: Annotated[int, alias("--concurrency")] = 32
    """Requests in the air at once."""
    max_tries: int = 3
    """Tries of one request; only what may pass (429, 5xx, timeouts) is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSettings:
    """Answers a table of questions over the OpenAI API; a second run asks what is missing."""

    question: Annotated[Path, alias("-q", "--question-file")] = Path("table/question.jsonl")
    """Table of questions; `table/question.jsonl` ships with the package."""
    output: Annotated[Path, alias("-o", "--answer-file")] = Path("answer.jsonl")
    """Table of answers to write."""
    model: str = "gpt-3.5-turbo"
    """Name sent to the server."""
    model_id: str = "gpt-3.5-turbo:20230327"
    """Name and version in the table."""
    max_tokens: int = 1024
    """Longest answer, in tokens."""
    temperature: float = 0.7
    """How freely it answers; 0 always takes the most probable token."""
    debug: bool = False
    """Show tracebacks."""
    endpoint: Group[BaselineEndpoint] = field(default_factory=BaselineEndpoint)


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when every question has an answer."""
    return run_command(BaselineSettings, _run, argv, prog=PROG)


def _run(settings: BaselineSettings) -> int:
    from fastchat.eval.answering import AnswerPlan, finish
    from fastchat.eval.tables import Question, read_table

    settings.endpoint.check()
    if settings.max_tokens < 1:
        raise UsageError(f"--max-tokens {settings.max_tokens}: give 1 or more.")
    if not 0 <= settings.temperature <= 2:
        raise UsageError(f"--temperature {settings.temperature:g}: give 0 to 2.")
    plan = AnswerPlan(
        questions=read_table(settings.question, Question),
        model_id=settings.model_id,
        path=settings.output,
        system_message=SYSTEM_MESSAGE,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        metadata={"temperature": settings.temperature, "max_tokens": settings.max_tokens},
    )
    todo = plan.missing()
    return finish(plan, asyncio.run(_ask(settings, plan, todo)) if todo else None)


async def _ask(
    settings: BaselineSettings, plan: "AnswerPlan", todo: "Sequence[Question]"
) -> "Outcome":
    from fastchat.eval.answering import answer_all
    from fastchat.llm_judge.account import Account
    from fastchat.llm_judge.asking import ApiModel
    from fastchat.llm_judge.endpoints import endpoint_of

    account = Account(max_cost=settings.endpoint.max_cost)
    endpoint = endpoint_of(settings.model, settings.endpoint)
    model = ApiModel(settings.model, endpoint, settings.endpoint, account=account)
    try:
        return await answer_all(model, plan, todo, concurrency=settings.endpoint.parallel)
    finally:
        await model.close()


if __name__ == "__main__":
    sys.exit(main())
