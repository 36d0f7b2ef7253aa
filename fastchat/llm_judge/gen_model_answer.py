"""Answers a benchmark's questions with a model in this process, all of them in one batch.

python3 -m fastchat.llm_judge.gen_model_answer --model-path lmsys/vicuna-7b-v1.5 --model-id vicuna
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fastchat.engine.choose import EngineSettings
from fastchat.errors import UsageError
from fastchat.llm_judge.bench_settings import BenchSettings
from fastchat.llm_judge.extras import needing_extras
from fastchat.settings import alias, run_command

if TYPE_CHECKING:
    from fastchat.llm_judge.records import Question
    from fastchat.llm_judge.running import Outcome
    from fastchat.model.load import ModelSettings

PROG = "python3 -m fastchat.llm_judge.gen_model_answer"
REMEDY = "What is missing is answered by the same command again."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswerSettings(BenchSettings):
    """Answers a benchmark with a model in this process; a second run asks only what is missing."""

    model_path: str = ""
    """Must be given: folder or hub id; `vicuna-tiny` is the model that ships in the package."""
    model_id: str = ""
    """Must be given: name of the model among the results."""
    question_begin: int | None = None
    """First question, counted from 0."""
    question_end: int | None = None
    """Question before which to stop."""
    answer_file: Path | None = None
    """Where answers go; by default model_answer/MODEL_ID.jsonl in the benchmark's folder."""
    max_new_token: Annotated[int, alias("--max-new-tokens")] = 1024
    """Longest answer of a turn, in tokens."""
    num_choices: int = 1
    """Answers to each question, each with a seed of its own."""
    num_gpus_per_model: int = 1
    """Accelerators that one copy of the model is spread over."""
    num_gpus_total: int = 1
    """Accelerators in all; more than one model's are shared out by ray."""
    max_gpu_memory: str | None = None
    """Weights per accelerator at most, like `8GiB`."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision; `auto` follows the checkpoint and the device."""
    revision: str = "main"
    """Branch, tag or commit of a hub model."""
    device: Literal["auto", "cpu", "cuda", "mps", "xpu", "npu"] = "auto"
    """Where it runs."""
    chat_template: str | None = None
    """Prompt format: a template's name, or a Jinja file; by default the model's own."""
    load_8bit: bool = False
    """Keep the weights in 8 bits."""
    num_threads: int | None = None
    """Compute threads; the default is the cores this process may use."""
    max_running: int = 128
    """Questions that advance together at most."""
    max_cached_tokens: int | None = None
    """Tokens whose keys and values are kept; by default 32768, or one full context if more."""
    seed: int = 0
    """Where the seeds of sampled answers begin."""
    force: bool = False
    """Answer again what has an answer."""


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when every question has an answer."""
    return run_command(ModelAnswerSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: ModelAnswerSettings) -> int:
    from fastchat.llm_judge.answering import finish, plan_answers
    from fastchat.llm_judge.folders import read_answers
    from fastchat.llm_judge.running import say

    _check(settings)
    path = settings.answer_file or settings.bench.answer_file(settings.model_id)
    questions = settings.bench.questions(settings.question_begin, settings.question_end)
    held = read_answers(path)
    say(held.report())
    todo = plan_answers(held.rows, questions, settings.num_choices, is_forced=settings.force)
    say([f"{len(questions) - len(todo)} of {len(questions)} questions are answered already."])
    outcome = _answer_here_or_by_ray(settings, todo, path) if todo else None
    if path.exists():
        print(finish(path))
    told = outcome.report(REMEDY) if outcome else []
    say(told)
    return 1 if told else 0


def _check(settings: ModelAnswerSettings) -> None:
    """Refuses numbers nothing can be done with."""
    from fastchat.llm_judge.answering import CHOICES_PER_QUESTION

    for name in ("model_path", "model_id"):
        if not getattr(settings, name):
            raise UsageError(f"Give --{name.replace('_', '-')}.")
    for name in ("num_choices", "max_new_token", "num_gpus_per_model", "num_gpus_total"):
        if getattr(settings, name) < 1:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} {getattr(settings, name)}: give 1 or more.")
    if settings.num_choices > CHOICES_PER_QUESTION:
        raise UsageError(f"--num-choices: give {CHOICES_PER_QUESTION} at most.")
    if settings.num_gpus_total % settings.num_gpus_per_model:
        raise UsageError(
            f"--num-gpus-total {settings.num_gpus_total} must be a multiple of "
            f"--num-gpus-per-model {settings.num_gpus_per_model}."
        )


def _answer_here_or_by_ray(
    settings: ModelAnswerSettings, todo: "Sequence[Question]", path: Path
) -> "Outcome":
    from fastchat.llm_judge.manifest import Manifest, file_hash

    manifest = Manifest(
        settings.bench.manifest_file(f"{settings.model_id}_answers"),
        "gen_model_answer",
        {
            "model": settings.model_id,
            "settings": {name: _plain(value) for name, value in asdict(settings).items()},
            "questions_sha256": file_hash(settings.bench.question_file),
            "questions": len(todo),
        },
    )
    n_copies = settings.num_gpus_total // settings.num_gpus_per_model
    if n_copies > 1:
        outcome, sums = _by_ray(settings, todo, path, n_copies=n_copies)
    else:
        outcome, sums = answer_part(settings, todo, path)
    manifest.end({"answered": outcome.n_done, "failed": len(outcome.failures), **sums})
    return outcome


def _by_ray(
    settings: ModelAnswerSettings, todo: "Sequence[Question]", path: Path, *, n_copies: int
) -> "tuple[Outcome, dict[str, object]]":
    """Published: one task of ray for each copy of the model, each with a part of the questions."""
    from fastchat.llm_judge.running import Outcome

    try:
        import ray  # type: ignore[import-not-found]
    except ModuleNotFoundError:
        raise UsageError(
            "--num-gpus-total above --num-gpus-per-model shares the questions out by ray; "
            "install it with `pip install fschat[ray]`."
        ) from None
    ray.init(ignore_reinit_error=True)
    task = ray.remote(num_gpus=settings.num_gpus_per_model)(answer_part)
    parts = [todo[i::n_copies] for i in range(n_copies)]
    where = path.resolve()
    here = replace(settings, data_dir=settings.data_dir.resolve())
    handles = [task.remote(here, part, where) for part in parts if part]
    total, sums = Outcome(), {}
    for outcome, found in ray.get(handles):
        total.n_done += outcome.n_done
        total.failures += outcome.failures
        total.stopped = total.stopped or outcome.stopped
        for name in ("requests", "prompt_tokens", "completion_tokens"):
            sums[name] = sums.get(name, 0) + found[name]
    return total, sums


def answer_part(
    settings: ModelAnswerSettings, todo: "Sequence[Question]", path: Path
) -> "tuple[Outcome, dict[str, object]]":
    """Loads the model and answers `todo` with it; how that went, and its sums."""
    return asyncio.run(_answer(settings, todo, path))


async def _answer(
    settings: ModelAnswerSettings, todo: "Sequence[Question]", path: Path
) -> "tuple[Outcome, dict[str, object]]":
    from fastchat.llm_judge.account import Account
    from fastchat.llm_judge.answering import AnswerPlan, answer_all
    from fastchat.llm_judge.asking import EngineModel
    from fastchat.llm_judge.in_process import open_answering
    from fastchat.llm_judge.lines import Appender

    account = Account()
    engine = await open_answering(_model_settings(settings), _engine_settings(settings))
    model = EngineModel(settings.model_id, engine, account=account)
    plan = AnswerPlan(
        questions=tuple(todo),
        num_choices=settings.num_choices,
        max_tokens=settings.max_new_token,
        seed=settings.seed,
    )
    try:
        with Appender(path) as file:
            outcome = await answer_all(model, plan, file, concurrency=max(1, len(todo)))
    finally:
        await model.close()
    return outcome, account.summary()


def _engine_settings(settings: ModelAnswerSettings) -> EngineSettings:
    return EngineSettings(
        max_running=settings.max_running, max_cached_tokens=settings.max_cached_tokens
    )


def _model_settings(settings: ModelAnswerSettings) -> "ModelSettings":
    from fastchat.model.load import ModelSettings

    template = settings.chat_template
    is_file = template is not None and Path(template).is_file()
    return ModelSettings(
        model_path=settings.model_path,
        revision=settings.revision,
        device=settings.device,
        num_gpus=settings.num_gpus_per_model,
        max_gpu_memory=settings.max_gpu_memory,
        dtype=settings.dtype,
        num_threads=settings.num_threads,
        load_8bit=settings.load_8bit,
        chat_template=template if is_file else None,
        conv_template=None if is_file else template,
    )


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
