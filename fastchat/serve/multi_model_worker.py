"""Several models in one worker process, under one registration.

    python3 -m fastchat.serve.multi_model_worker \\
        --model-path lmsys/vicuna-7b-v1.5 --model-names vicuna \\
        --model-path lmsys/longchat-7b-16k --model-names longchat
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import UseAppendAction

from fastchat.engine.choose import EngineSettings
from fastchat.errors import UsageError
from fastchat.model.load import ModelSettings
from fastchat.serve.model_worker import default_name, open_model, run_worker
from fastchat.serve.published_formats import FormatFlags
from fastchat.serve.worker_settings import WorkerSettings
from fastchat.settings import Env, Group, alias, run_command

if TYPE_CHECKING:
    from fastchat.engine.base import Engine

Repeated = UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedModelSettings(ModelSettings):
    """What all models of one process share; which they are is repeated."""

    model_path: Annotated[Repeated, alias("--model")] = ()  # type: ignore[assignment]  # many for one
    """Folder or hub id; once for each model."""
    conv_template: Repeated = ()  # type: ignore[assignment]  # many for one
    """Prompt template by name; once for all, or once for each model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiModelWorkerSettings(WorkerSettings):
    """Serves several models over the OpenAI API in one process."""

    model_names: Annotated[Repeated, alias("--model-name")] = ()
    """Names of a model, separated by commas; once for each model, in the same order."""
    share_base_weights: Annotated[bool, Env("PEFT_SHARE_BASE_WEIGHTS")] = False
    """Load a base once for all adapters of it, and for itself where it is listed too."""
    model: Group[SharedModelSettings] = field(default_factory=SharedModelSettings)
    engine: Group[EngineSettings] = field(default_factory=EngineSettings)
    formats: Group[FormatFlags] = field(default_factory=FormatFlags)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the worker until a signal."""
    return run_command(
        MultiModelWorkerSettings, _run, argv, prog="python3 -m fastchat.serve.multi_model_worker"
    )


def _run(settings: MultiModelWorkerSettings) -> None:
    settings.formats.refuse()
    models = aligned_models(settings)

    async def open_engines() -> dict[str, "Engine"]:
        engines: dict[str, Engine] = {}
        shared: dict[str, Engine] | None = {} if settings.share_base_weights else None
        for names, model in models:
            engine = await open_model(model, settings.engine, shared=shared)
            engines |= dict.fromkeys(names, engine)
        return engines

    run_worker(settings, open_engines)


def aligned_models(
    settings: MultiModelWorkerSettings,
) -> list[tuple[tuple[str, ...], ModelSettings]]:
    """Names and settings of each model, put together by position.

    Raises:
        UsageError: the repeated flags do not fit together, or a name stands twice.
    """
    paths = tuple(settings.model.model_path)
    if not paths:
        raise UsageError("--model-path is needed, once for each model.")
    templates = _spread("--conv-template", tuple(settings.model.conv_template), len(paths))
    if settings.model_names and len(settings.model_names) != len(paths):
        raise UsageError(
            f"--model-names was given {len(settings.model_names)} times and --model-path "
            f"{len(paths)} times; give it once for each model, or not at all."
        )
    names = [tuple(filter(None, map(str.strip, n.split(",")))) for n in settings.model_names]
    names = names or [(default_name(path),) for path in paths]
    every = [name for group in names for name in group]
    if doubled := {name for name in every if every.count(name) > 1}:
        raise UsageError(
            f"The name {min(doubled)!r} stands for two models; tell them apart by --model-names."
        )
    shared: dict[str, Any] = {
        f.name: getattr(settings.model, f.name) for f in fields(ModelSettings)
    }
    models = [
        ModelSettings(**shared | {"model_path": path, "conv_template": template})
        for path, template in zip(paths, templates, strict=True)
    ]
    return list(zip(names, models, strict=True))


def _spread(flag: str, values: tuple[str, ...], count: int) -> tuple[str | None, ...]:
    """`values`, a single one repeated for all."""
    if len(values) in (0, 1):
        return (values[0] if values else None,) * count
    if len(values) != count:
        raise UsageError(
            f"{flag} was given {len(values)} times and --model-path {count} times; "
            "give it once for all, or once for each model."
        )
    return values


if __name__ == "__main__":
    sys.exit(main())
