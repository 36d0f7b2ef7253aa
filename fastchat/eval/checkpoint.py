"""Answers of a checkpoint in this process, or of a copy on each accelerator by ray."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastchat.errors import UsageError

if TYPE_CHECKING:
    from fastchat.eval.answering import AnswerPlan
    from fastchat.eval.tables import Question
    from fastchat.llm_judge.running import Outcome
    from fastchat.model.load import ModelSettings


def answer_with(model: "ModelSettings", plan: "AnswerPlan", *, n_copies: int = 1) -> int:
    """Answers what is missing in the plan's table; the exit status.

    Raises:
        UsageError: several copies are asked for, and there is no ray.
    """
    from fastchat.eval.answering import finish

    if plan.max_tokens < 1:
        raise UsageError(f"--max-new-tokens {plan.max_tokens}: give 1 or more.")
    if not 0 <= plan.temperature <= 2:
        raise UsageError(f"--temperature {plan.temperature:g}: give 0 to 2.")
    if n_copies < 1:
        raise UsageError(f"--num-gpus {n_copies}: give 1 or more.")
    todo = plan.missing()
    if not todo:
        return finish(plan, None)
    if n_copies > 1:
        return finish(plan, _by_ray(model, plan, todo, n_copies=n_copies))
    return finish(plan, answer_part(model, plan, todo))


def answer_part(
    model: "ModelSettings", plan: "AnswerPlan", todo: "Sequence[Question]"
) -> "Outcome":
    """Loads the model and answers `todo`, all questions in one batch."""
    return asyncio.run(_answer(model, plan, todo))


async def _answer(
    settings: "ModelSettings", plan: "AnswerPlan", todo: "Sequence[Question]"
) -> "Outcome":
    from fastchat.eval.answering import answer_all
    from fastchat.llm_judge.account import Account
    from fastchat.llm_judge.asking import EngineModel
    from fastchat.llm_judge.in_process import open_answering

    model = EngineModel(plan.model_id, await open_answering(settings), account=Account())
    try:
        return await answer_all(model, plan, todo, concurrency=len(todo))
    finally:
        await model.close()


def _by_ray(
    model: "ModelSettings", plan: "AnswerPlan", todo: "Sequence[Question]", *, n_copies: int
) -> "Outcome":
    """Published: one task of ray for each accelerator, each with a part of the questions."""
    from dataclasses import replace

    from fastchat.llm_judge.running import Outcome

    try:
        import ray  # type: ignore[import-not-found]
    except ModuleNotFoundError:
        raise UsageError(
            "--num-gpus above 1 shares the questions out by ray; install it with `pip install "
            "fschat[ray]`."
        ) from None
    ray.init(ignore_reinit_error=True)
    task = ray.remote(num_gpus=1)(answer_part)
    here = replace(plan, path=plan.path.resolve())
    parts = [part for i in range(n_copies) if (part := todo[i::n_copies])]
    total = Outcome()
    for outcome in ray.get([task.remote(model, here, part) for part in parts]):
        total.n_done += outcome.n_done
        total.failures += outcome.failures
        total.stopped = total.stopped or outcome.stopped
    return total
