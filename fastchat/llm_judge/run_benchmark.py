"""Runs a benchmark of your own from one YAML file: answers, scores, judgments, results.

python3 -m fastchat.llm_judge.run_benchmark --config bench.yaml
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fastchat.errors import UsageError
from fastchat.llm_judge.endpoints import EndpointSettings
from fastchat.llm_judge.extras import needing_extras
from fastchat.settings import Group, WordList, run_command

if TYPE_CHECKING:
    from fastchat.llm_judge.benchmark_file import BenchmarkFile, ModelPart
    from fastchat.llm_judge.benchmark_runs import Item
    from fastchat.llm_judge.folders import Bench
    from fastchat.llm_judge.records import Question

PROG = "python3 -m fastchat.llm_judge.run_benchmark"
REMEDY = "Results so far are kept; the same command does only what is missing."


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkSettings:
    """Runs a benchmark of your own; a second run does only what is missing."""

    config: Path | None = None
    """Must be given: the YAML file."""
    data_dir: Path = Path("data")
    """Where results are written, in a folder of the benchmark's name."""
    models: WordList = ()
    """Only these models of the file; a name that is not in it is asked at --api-base."""
    model_path: str | None = None
    """Folder or hub id of one more model, in this process; --models names it alone."""
    judge_model: str | None = None
    """Another judge than the file's, asked at --api-base."""
    limit: int | None = None
    """Only the first so many questions."""
    allow_code_execution: bool = False
    """Run the programs in answers, as `scoring: {kind: code}` asks."""
    retry_unparsed: bool = False
    """Ask the judge again where no grade was found."""
    force: bool = False
    """Answer and score again what has been; the cache is not read."""
    check: bool = False
    """Check the file, say what it asks for, and do nothing."""
    debug: bool = False
    """Show tracebacks."""
    endpoint: Group[EndpointSettings] = field(default_factory=EndpointSettings)


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when everything is answered and scored."""
    return run_command(BenchmarkSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: BenchmarkSettings) -> int:
    from fastchat.llm_judge.benchmark_file import load_benchmark
    from fastchat.llm_judge.benchmark_runs import server_key, write_questions
    from fastchat.llm_judge.folders import Bench
    from fastchat.llm_judge.running import say

    settings.endpoint.check()
    if settings.config is None:
        raise UsageError("Give --config with a YAML file.")
    if settings.limit is not None and settings.limit < 1:
        raise UsageError(f"--limit {settings.limit}: give 1 or more.")
    made = load_benchmark(settings.config)
    models = _models(settings, made)
    _check(settings, made)
    questions = made.rows()
    print(_summary(made, models))
    if settings.check:
        return 0
    for part in (*models, *([judge] if (judge := _judge(settings, made)) else [])):
        server_key(part)  # a key that lacks is told before anything is asked
    bench = Bench(data_dir=settings.data_dir, name=made.name)
    write_questions(bench, questions)
    told = asyncio.run(_everything(settings, made, models, bench, questions[: settings.limit]))
    _show(settings, made, bench)
    say(told)
    return 1 if told else 0


def _models(settings: BenchmarkSettings, made: "BenchmarkFile") -> "list[ModelPart]":
    """Who answers."""
    from fastchat.llm_judge.benchmark_file import ModelPart

    if settings.model_path:
        if len(settings.models) > 1:
            raise UsageError("--model-path is one model; name it alone in --models.")
        name = (*settings.models, Path(settings.model_path).name)[0]
        return [ModelPart(name=name, model_path=settings.model_path)]
    known = {part.name: part for part in made.models}
    wanted = settings.models or tuple(known)
    if not wanted:
        raise UsageError("No model: give models in the file, or --models, or --model-path.")
    return [known.get(name) or ModelPart(name=name) for name in dict.fromkeys(wanted)]


def _judge(settings: BenchmarkSettings, made: "BenchmarkFile") -> "ModelPart | None":
    from fastchat.llm_judge.benchmark_file import ModelPart

    if settings.judge_model and (not made.judge or made.judge.name != settings.judge_model):
        return ModelPart(name=settings.judge_model)
    return made.judge


def _kinds(made: "BenchmarkFile") -> dict[str, int]:
    """How many turns are scored in each way."""
    counts: dict[str, int] = {}
    for _, part in made.numbered():
        for turn in range(len(part.turns)):
            if rule := made.rule(part, turn):
                counts[rule.kind] = counts.get(rule.kind, 0) + 1
    return counts


def _check(settings: BenchmarkSettings, made: "BenchmarkFile") -> None:
    """Refuses what the file asks for and cannot be done."""
    kinds = _kinds(made)
    if "code" in kinds and not (settings.allow_code_execution or settings.check):
        raise UsageError(
            f"{kinds['code']} answers are scored by running the programs in them; allow it with "
            "--allow-code-execution. They run in processes of their own with limits, but belong "
            "on a machine that nothing hangs on."
        )
    judge = _judge(settings, made)
    if "judge" in kinds and judge is None:
        raise UsageError(
            f"{kinds['judge']} answers are to be graded by a judge; name it as `judge:` in the "
            "file, or with --judge-model."
        )
    if judge and judge.name == "rules":
        raise UsageError("A judge cannot be called rules: so are the scores by rule.")


def _summary(made: "BenchmarkFile", models: "Sequence[ModelPart]") -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in _kinds(made).items())
    n_turns = sum(len(part.turns) for part in made.questions)
    names = ", ".join(part.name for part in models)
    return (
        f"{made.name}: {len(made.questions)} questions, {n_turns} turns ({kinds or 'none scored'})"
        f", models: {names}"
    )


async def _everything(
    settings: BenchmarkSettings,
    made: "BenchmarkFile",
    models: "Sequence[ModelPart]",
    bench: "Bench",
    questions: "Sequence[Question]",
) -> list[str]:
    """Answers, scores by rule, judges; what a person should know of what did not work."""
    from fastchat.llm_judge.benchmark_runs import items_of, score_by_rules
    from fastchat.llm_judge.running import say

    told: list[str] = []
    items: list[Item] = []
    for part in models:
        told += await _answer(settings, made, part, bench, questions)
        items += items_of(made, questions, bench.answers(part.name).rows)
    outcome, notes = await score_by_rules(made, bench, items, force=settings.force)
    say(sorted(notes))
    told += outcome.report(REMEDY)
    return told + await _grade(settings, made, bench, items)


async def _answer(
    settings: BenchmarkSettings,
    made: "BenchmarkFile",
    part: "ModelPart",
    bench: "Bench",
    questions: "Sequence[Question]",
) -> list[str]:
    """Lets one model answer what it has not answered yet."""
    from fastchat.llm_judge.answering import AnswerPlan, answer_all, finish, plan_answers
    from fastchat.llm_judge.benchmark_runs import ToldModel, open_model
    from fastchat.llm_judge.lines import Appender
    from fastchat.llm_judge.manifest import Manifest, file_hash
    from fastchat.llm_judge.running import say

    held = bench.answers(part.name)
    say(held.report())
    todo = plan_answers(held.rows, questions, 1, is_forced=settings.force)
    if not todo:
        return []
    manifest = Manifest(
        bench.manifest_file(f"{part.name}_answers"),
        "run_benchmark",
        {
            "model": part.shown,
            "questions_sha256": file_hash(bench.question_file),
            "questions": len(todo),
            "system_message": made.system_message,
            "max_tokens": made.max_tokens,
        },
    )
    model = await open_model(part, bench, settings.endpoint, force=settings.force)
    asked = ToldModel(model, made.system_message) if made.system_message else model
    plan = AnswerPlan(questions=todo, max_tokens=made.max_tokens)
    concurrency = len(todo) if part.model_path else settings.endpoint.parallel
    try:
        with Appender(bench.answer_file(part.name)) as file:
            outcome = await answer_all(asked, plan, file, concurrency=concurrency)
    finally:
        await model.close()
    sums = model.account.summary()
    manifest.end({"answered": outcome.n_done, "failed": len(outcome.failures), **sums})
    if outcome.n_done:
        say([finish(bench.answer_file(part.name))])
    return outcome.report(REMEDY)


async def _grade(
    settings: BenchmarkSettings, made: "BenchmarkFile", bench: "Bench", items: "Sequence[Item]"
) -> list[str]:
    """Lets the judge grade what it has not graded yet."""
    from fastchat.llm_judge.benchmark_runs import judge_turns, matches_of, not_judged, open_model
    from fastchat.llm_judge.judge import Judge
    from fastchat.llm_judge.manifest import Manifest

    part = _judge(settings, made)
    matches = matches_of(made, items)
    if part is None or not matches:
        return []
    path = bench.judgment_file(part.name, "single")
    todo = not_judged(path, matches, part.name, retry_unparsed=settings.retry_unparsed)
    if not todo:
        return []
    manifest = Manifest(
        bench.manifest_file(path.stem),
        "run_benchmark",
        {
            "judge": part.shown,
            "prompts": {match.prompt.name: match.prompt.hash for match in matches},
            "matches": len(todo),
        },
    )
    model = await open_model(part, bench, settings.endpoint, force=settings.force)
    judge = Judge(model=model, is_fresh=settings.retry_unparsed)
    concurrency = len(todo) if part.model_path else settings.endpoint.parallel
    try:
        outcome = await judge_turns(path, todo, judge, concurrency=concurrency)
    finally:
        await model.close()
    sums = model.account.summary()
    manifest.end({"judged": outcome.n_done, "failed": len(outcome.failures), **sums})
    return outcome.report(REMEDY)


def _show(settings: BenchmarkSettings, made: "BenchmarkFile", bench: "Bench") -> None:
    """Prints what `show_result` shows."""
    from fastchat.llm_judge.benchmark_runs import RULES
    from fastchat.llm_judge.folders import read_single
    from fastchat.llm_judge.running import say
    from fastchat.llm_judge.show_result import ResultSettings, results

    judge = _judge(settings, made)
    for name in (RULES, *([judge.name] if judge else [])):
        if not read_single(bench.judgment_file(name, "single")).rows:
            continue
        wanted = ResultSettings(
            bench_name=made.name, data_dir=settings.data_dir, judge_model=(name,)
        )
        print(f"\nJudge: {name}")
        shown = results(wanted)
        for table in shown.tables:
            print(table.text())
        say(shown.notes)


if __name__ == "__main__":
    sys.exit(main())
