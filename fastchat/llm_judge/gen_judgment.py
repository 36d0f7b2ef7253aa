"""Lets one or several judges grade answers, or compare them in pairs and in both orders.

python3 -m fastchat.llm_judge.gen_judgment --judge-model gpt-4 --model-list vicuna-7b --parallel 8
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastchat.errors import UsageError
from fastchat.llm_judge.bench_settings import BenchSettings
from fastchat.llm_judge.endpoints import EndpointSettings
from fastchat.llm_judge.extras import needing_extras
from fastchat.settings import Group, run_command

if TYPE_CHECKING:
    from fastchat.llm_judge.account import Account
    from fastchat.llm_judge.asking import Model
    from fastchat.llm_judge.judging import JudgingPlan

PROG = "python3 -m fastchat.llm_judge.gen_judgment"
REMEDY = "Results so far are kept; the same command judges only what is missing."


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgmentSettings(BenchSettings):
    """Judges answers; a second run asks only for what is missing."""

    judge_file: Path | None = None
    """Judge prompts; by default judge_prompts.jsonl of the data folder or the package."""
    judge_model: tuple[str, ...] = ("gpt-4",)
    """Judge; several, with blanks between, are a jury."""
    baseline_model: str = "gpt-3.5-turbo"
    """Whom everyone is compared with in the mode pairwise-baseline."""
    mode: Literal["single", "pairwise-baseline", "pairwise-all"] = "single"
    """Grades, or comparisons with a baseline or of all with all."""
    model_list: tuple[str, ...] = ()
    """Models to judge; by default all that have answers."""
    first_n: int | None = None
    """Only so many questions."""
    yes: bool = False
    """Do not ask before beginning."""
    dry_run: bool = False
    """Say what would be asked and what it would cost, and ask nothing."""
    skip_missing: bool = False
    """Judge what has answers and references, instead of refusing when some lack."""
    retry_unparsed: bool = False
    """Ask again where no verdict was found."""
    published_references: bool = False
    """Judge MT-bench beside its published reference answers, 13 of which are wrong."""
    constrained: Literal["auto", "never"] = "auto"
    """Ask for verdicts by JSON schema where the server can, else by the published patterns."""
    max_tokens: int = 2048
    """Longest judgment, in tokens."""
    judge_model_path: str | None = None
    """Folder or hub id: the judge runs in this process, under the name of --judge-model."""
    endpoint: Group[EndpointSettings] = field(default_factory=EndpointSettings)


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when everything is judged."""
    return run_command(JudgmentSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: JudgmentSettings) -> int:
    from fastchat.llm_judge.judging import finish
    from fastchat.llm_judge.running import say

    _check(settings)
    plans = [_plan(settings, judge) for judge in settings.judge_model]
    for plan in plans:
        say(plan.notes)
        print(_summary(settings, plan))
    if settings.dry_run:
        return 0
    if not settings.yes and sys.stdin.isatty() and any(plan.todo for plan in plans):
        input("Press Enter to confirm...")
    status, spent = 0, 0.0
    for plan in plans:
        told: list[str] = []
        if plan.todo:
            told, cost = asyncio.run(_judge(settings, plan, spent))
            spent += cost
        status = 1 if told else status
        say([*told, *(finish(plan) if plan.output.exists() else [])])
    return status


def _check(settings: JudgmentSettings) -> None:
    """Refuses what cannot be done as asked."""
    settings.endpoint.check()
    for name in ("max_tokens", "first_n"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value}: give 1 or more.")
    if len(set(settings.judge_model)) != len(settings.judge_model) or not settings.judge_model:
        raise UsageError("--judge-model: name each judge once.")
    if settings.judge_model_path and len(settings.judge_model) > 1:
        raise UsageError("--judge-model-path is one judge; name it alone in --judge-model.")


def _plan(settings: JudgmentSettings, judge: str) -> "JudgingPlan":
    from fastchat.llm_judge.folders import chosen_models
    from fastchat.llm_judge.judging import plan_judging
    from fastchat.llm_judge.prompts import load_prompts

    bench = settings.bench
    questions = bench.questions()[: settings.first_n]
    if settings.mode == "pairwise-baseline":
        _check_baseline(settings)
    models = chosen_models(bench, settings.model_list)
    if settings.mode == "pairwise-all" and len(set(models)) < 2:
        raise UsageError("pairwise-all compares at least two models; give more answers.")
    return plan_judging(
        bench,
        questions,
        mode=settings.mode,
        models=list(dict.fromkeys(models)),
        baseline=settings.baseline_model,
        judge=judge,
        prompts=load_prompts(settings.judge_file, settings.data_dir),
        skip_missing=settings.skip_missing,
        retry_unparsed=settings.retry_unparsed,
        is_corrected=not settings.published_references,
    )


def _check_baseline(settings: JudgmentSettings) -> None:
    known = settings.bench.models()
    if settings.baseline_model not in known:
        raise UsageError(
            f"The baseline {settings.baseline_model} has no answers; make them, or name another "
            f"with --baseline-model. There are those of {', '.join(known) or 'nobody'}."
        )


def _summary(settings: JudgmentSettings, plan: "JudgingPlan") -> str:
    """The published words about a run, and what it will ask."""
    import orjson

    value: dict[str, Any] = {
        "bench_name": settings.bench_name,
        "mode": plan.mode,
        "judge": plan.judge,
        "baseline": settings.baseline_model if plan.mode == "pairwise-baseline" else None,
        "model_list": list(plan.models),
        "total_num_questions": len(settings.bench.questions()[: settings.first_n]),
        "total_num_matches": plan.n_matches,
        "output_path": str(plan.output),
        "judged_already": plan.n_matches - len(plan.todo),
        "expected": plan.expected(_prices(settings, plan.judge)),
    }
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _prices(settings: JudgmentSettings, judge: str) -> tuple[float | None, float | None]:
    from fastchat.llm_judge.endpoints import endpoint_of

    endpoint = endpoint_of(judge, settings.endpoint)
    return endpoint.price_input, endpoint.price_output


async def _judge(
    settings: JudgmentSettings, plan: "JudgingPlan", spent: float
) -> tuple[list[str], float]:
    """Runs one judge: what a person should know when it did not get through, and its dollars."""
    from fastchat.llm_judge.account import Account
    from fastchat.llm_judge.endpoints import endpoint_of
    from fastchat.llm_judge.judge import Judge
    from fastchat.llm_judge.judging import judge_all
    from fastchat.llm_judge.manifest import Manifest, file_hash
    from fastchat.llm_judge.running import say

    ceiling = settings.endpoint.max_cost
    account = Account(max_cost=None if ceiling is None else max(0.0, ceiling - spent))
    endpoint = endpoint_of(plan.judge, settings.endpoint)
    manifest = Manifest(
        settings.bench.manifest_file(plan.output.stem),
        "gen_judgment",
        {
            "judge": plan.judge,
            "endpoint": settings.judge_model_path or endpoint.shown,
            "mode": plan.mode,
            "models": plan.models,
            "baseline": settings.baseline_model,
            "prompts": plan.prompts,
            "temperature": 0.0,
            "max_tokens": settings.max_tokens,
            "constrained": settings.constrained,
            "references": "published" if settings.published_references else "corrected",
            "questions_sha256": file_hash(settings.bench.question_file),
            "matches": len(plan.todo),
        },
    )
    model = await _open(settings, plan.judge, account)
    judge = Judge(
        model=model,
        max_tokens=settings.max_tokens,
        output="auto" if settings.constrained == "auto" else "patterns",
        is_fresh=settings.retry_unparsed,
    )
    # A judge in this process has no wire to spare: its engine takes all, and batches them.
    n_at_once = len(plan.todo) if settings.judge_model_path else settings.endpoint.parallel
    try:
        outcome = await judge_all(plan, judge, concurrency=n_at_once)
    finally:
        await model.close()
    sums = account.summary()
    manifest.end({"judged": outcome.n_done, "failed": len(outcome.failures), **sums})
    say([f"{plan.judge}: {outcome.n_done} judged. {_paid(sums)}"])
    return outcome.report(REMEDY), account.cost or 0.0


async def _open(settings: JudgmentSettings, judge: str, account: "Account") -> "Model":
    """The judge: behind a server, or in this process."""
    from fastchat.llm_judge.asking import ApiModel, Cache, EngineModel
    from fastchat.llm_judge.endpoints import endpoint_of

    if settings.judge_model_path:
        from fastchat.llm_judge.in_process import open_answering
        from fastchat.model.load import ModelSettings

        path = ModelSettings(model_path=settings.judge_model_path)
        return EngineModel(judge, await open_answering(path), account=account)
    cache = Cache(settings.bench.cache_file(judge), is_read=settings.endpoint.cache)
    endpoint = endpoint_of(judge, settings.endpoint)
    return ApiModel(judge, endpoint, settings.endpoint, account=account, cache=cache)


def _paid(sums: dict[str, Any]) -> str:
    cost = "" if sums["cost_usd"] is None else f", ${sums['cost_usd']:.4f}"
    return (
        f"{sums['requests']} requests, {sums['from_cache']} from the cache, {sums['retries']} "
        f"retries, {sums['prompt_tokens']} + {sums['completion_tokens']} tokens{cost}"
    )


if __name__ == "__main__":
    sys.exit(main())
