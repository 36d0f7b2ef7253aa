"""Answers a benchmark's questions with a model behind any OpenAI-compatible server.

python3 -m fastchat.llm_judge.gen_api_answer --model gpt-4 --parallel 8
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fastchat.errors import UsageError
from fastchat.llm_judge.bench_settings import BenchSettings
from fastchat.llm_judge.endpoints import EndpointSettings
from fastchat.llm_judge.extras import needing_extras
from fastchat.settings import Group, run_command

if TYPE_CHECKING:
    from fastchat.llm_judge.answering import AnswerPlan
    from fastchat.llm_judge.records import Question
    from fastchat.llm_judge.running import Outcome

PROG = "python3 -m fastchat.llm_judge.gen_api_answer"
REMEDY = "Mend what is said above; the same command asks only for what is missing."
EXPECTED_ANSWER_TOKENS = 400
"""For what a run will cost, before anything has been answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiAnswerSettings(BenchSettings):
    """Answers a benchmark over the OpenAI API; a second run asks only what is missing."""

    model: str = "gpt-3.5-turbo"
    """Name sent to the server, and of the model among the results."""
    answer_file: Path | None = None
    """Where answers go; by default model_answer/MODEL.jsonl in the benchmark's folder."""
    num_choices: int = 1
    """Answers to each question."""
    force_temperature: float | None = None
    """Temperature of every question, in place of its category's."""
    max_tokens: int = 1024
    """Longest answer of a turn, in tokens."""
    question_begin: int | None = None
    """First question, counted from 0."""
    question_end: int | None = None
    """Question before which to stop."""
    seed: int = 0
    """Where the seeds of sampled answers begin."""
    force: bool = False
    """Answer again what has an answer; the cache is not read."""
    dry_run: bool = False
    """Say what would be asked and what it would cost, and ask nothing."""
    endpoint: Group[EndpointSettings] = field(default_factory=EndpointSettings)


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when every question has an answer."""
    return run_command(ApiAnswerSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: ApiAnswerSettings) -> int:
    from fastchat.llm_judge.answering import AnswerPlan, finish, plan_answers
    from fastchat.llm_judge.folders import read_answers
    from fastchat.llm_judge.running import say

    questions = settings.bench.questions(settings.question_begin, settings.question_end)
    _check(settings, questions)
    path = settings.answer_file or settings.bench.answer_file(settings.model)
    held = read_answers(path)
    say(held.report())
    todo = plan_answers(held.rows, questions, settings.num_choices, is_forced=settings.force)
    say([f"{len(questions) - len(todo)} of {len(questions)} questions are answered already."])
    plan = AnswerPlan(
        questions=todo,
        num_choices=settings.num_choices,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
        temperature=lambda q: (
            q.temperature if settings.force_temperature is None else settings.force_temperature
        ),
    )
    if settings.dry_run:
        print(_expected(settings, plan))
        return 0
    outcome = asyncio.run(_answer(settings, plan, path)) if todo else None
    if path.exists():
        print(finish(path))
    told = outcome.report(REMEDY) if outcome else []
    say(told)
    return 1 if told else 0


def _check(settings: ApiAnswerSettings, questions: "Sequence[Question]") -> None:
    """Refuses what cannot be done as asked."""
    settings.endpoint.check()
    for name in ("num_choices", "max_tokens"):
        if getattr(settings, name) < 1:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} {getattr(settings, name)}: give 1 or more.")
    if settings.force_temperature is None:
        return
    if not 0 <= settings.force_temperature <= 2:
        raise UsageError(f"--force-temperature {settings.force_temperature:g}: give 0 to 2.")
    fixed = [q.question_id for q in questions if q.required_temperature is not None]
    if fixed:
        raise UsageError(
            f"--force-temperature contradicts the required_temperature of {len(fixed)} questions "
            f"(the first is {fixed[0]}); leave one of them out."
        )


def _expected(settings: ApiAnswerSettings, plan: "AnswerPlan") -> str:
    """What the run would ask and cost."""
    import orjson

    from fastchat.llm_judge.account import estimated_tokens, price
    from fastchat.llm_judge.endpoints import endpoint_of

    endpoint = endpoint_of(settings.model, settings.endpoint)
    n_new = min(EXPECTED_ANSWER_TOKENS, plan.max_tokens)
    requests = prompt = 0
    for question in plan.questions:
        said = 0
        for turn in question.turns:
            said += estimated_tokens(turn)
            prompt += said * plan.num_choices
            requests += plan.num_choices
            said += n_new
    new = requests * n_new
    value = {
        "requests": requests,
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "cost_usd": price(prompt, new, (endpoint.price_input, endpoint.price_output)),
    }
    return orjson.dumps({"expected": value}, option=orjson.OPT_INDENT_2).decode()


async def _answer(settings: ApiAnswerSettings, plan: "AnswerPlan", path: Path) -> "Outcome":
    from fastchat.llm_judge.account import Account
    from fastchat.llm_judge.answering import answer_all
    from fastchat.llm_judge.asking import ApiModel, Cache
    from fastchat.llm_judge.endpoints import endpoint_of
    from fastchat.llm_judge.lines import Appender
    from fastchat.llm_judge.manifest import Manifest, file_hash

    endpoint = endpoint_of(settings.model, settings.endpoint)
    account = Account(max_cost=settings.endpoint.max_cost)
    is_read = settings.endpoint.cache and not settings.force
    cache = Cache(settings.bench.cache_file(settings.model), is_read=is_read)
    model = ApiModel(settings.model, endpoint, settings.endpoint, account=account, cache=cache)
    manifest = Manifest(
        settings.bench.manifest_file(f"{settings.model}_answers"),
        "gen_api_answer",
        {
            "model": settings.model,
            "endpoint": endpoint.shown,
            "max_tokens": plan.max_tokens,
            "num_choices": plan.num_choices,
            "seed": plan.seed,
            "force_temperature": settings.force_temperature,
            "questions_sha256": file_hash(settings.bench.question_file),
            "questions": len(plan.questions),
        },
    )
    try:
        with Appender(path) as file:
            outcome = await answer_all(model, plan, file, concurrency=settings.endpoint.parallel)
    finally:
        await model.close()
    sums = account.summary()
    manifest.end({"answered": outcome.n_done, "failed": len(outcome.failures), **sums})
    return outcome


if __name__ == "__main__":
    sys.exit(main())
