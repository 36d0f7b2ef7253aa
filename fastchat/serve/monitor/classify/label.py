"""Labels prompts by a judge, for the categories of the leaderboard.

python3 -m fastchat.serve.monitor.classify.label --config config.yaml
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
import tyro

from fastchat.errors import DataError, UsageError
from fastchat.settings import Env, run_command

if TYPE_CHECKING:
    from fastchat.llm_judge.asking import Model
    from fastchat.serve.monitor.classify.labelling import Labelling
    from fastchat.serve.monitor.classify.tasks import Task

TESTED = 10
BASES = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta/openai",
}
"""Where each kind of provider answers the OpenAI API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSettings:
    """Labels battles by tasks of classify/tasks.toml or of a file of one's own."""

    config: Path = tyro.MISSING
    """YAML file of what to label, by which tasks and whom to ask; docs/arena.md has one."""
    testing: bool = False
    """Label the first 10 rows only."""
    vision: bool = False
    """Label rows with pictures, by the tasks about pictures."""
    openai_api_key: Annotated[str | None, Env("OPENAI_API_KEY")] = None
    """Key for api_type openai where endpoints name none; better in the environment."""
    anthropic_api_key: Annotated[str | None, Env("ANTHROPIC_API_KEY")] = None
    """The same for api_type anthropic."""
    gemini_api_key: Annotated[str | None, Env("GEMINI_API_KEY")] = None
    """The same for api_type gemini."""
    debug: bool = False
    """Show tracebacks."""


class EndpointEntry(pydantic.BaseModel):
    """One place that answers for the judge."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    api_base: str
    api_key: str | None = None


class LabelFile(pydantic.BaseModel):
    """The published keys of the configuration."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    input_file: str
    cache_file: str | None = None
    output_file: str
    convert_to_json: bool = False
    task_name: list[str] = pydantic.Field(min_length=1)
    task_file: str | None = None
    model_name: str
    name: str | None = None
    api_type: Literal["openai", "anthropic", "gemini"] = "openai"
    endpoints: list[EndpointEntry] | None = None
    parallel: int = pydantic.Field(default=50, ge=1)
    temperature: float = pydantic.Field(default=0.0, ge=0)
    max_token: int = pydantic.Field(default=512, ge=1)
    image_dir: str | None = None
    max_retry: int = pydantic.Field(default=2, ge=0)
    retry_sleep: float = pydantic.Field(default=10.0, ge=0)
    error_output: str | None = None


def label(settings: LabelSettings) -> int:
    """Labels, and prints what was done and what failed."""
    from fastchat.llm_judge.running import say
    from fastchat.serve.monitor.classify.runs import LabelRun, run_labels

    config = read_config(settings.config)
    run = LabelRun(
        input=config.input_file,
        output=Path(config.output_file),
        cache=Path(config.cache_file) if config.cache_file else None,
        first_n=TESTED if settings.testing else None,
        with_pictures=settings.vision,
    )
    labelling = _labelling(config, vision=settings.vision)
    n_done, n_failed, told = asyncio.run(
        run_labels(
            run,
            labelling,
            _model(settings, config),
            parallel=config.parallel,
            error_output=Path(config.error_output) if config.error_output else None,
            to_json=config.convert_to_json,
        )
    )
    print(f"labelled: {n_done} rows in {config.output_file}")
    say(told)
    return 1 if n_failed else 0


def read_config(path: Path) -> LabelFile:
    """The configuration of a YAML file.

    Raises:
        DataError: the file is missing or not what it should be; the message says where.
        UsageError: the library that reads YAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise UsageError("--config needs: pip install 'fschat[arena]'.") from None
    try:
        value = yaml.safe_load(path.read_text("utf-8"))
        return LabelFile.model_validate(value)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--config {path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        shown = str(error).splitlines()[0]
        raise DataError(f"--config {path} is no YAML: {shown}.") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise DataError(f"{path.name}: {where}: {first['msg']}.") from None


def _labelling(config: LabelFile, *, vision: bool) -> "Labelling":
    from fastchat.serve.monitor.classify.labelling import Labelling
    from fastchat.serve.monitor.classify.pictures import PictureFolder

    if vision and config.image_dir is None:
        raise UsageError("--vision needs image_dir in the configuration: the folder of pictures.")
    if config.image_dir is not None and not Path(config.image_dir).is_dir():
        raise DataError(f"image_dir {config.image_dir} is no folder of pictures.")
    return Labelling(
        tasks=_tasks(config, vision=vision),
        temperature=config.temperature,
        max_tokens=config.max_token,
        pictures=PictureFolder(folder=Path(config.image_dir)) if config.image_dir else None,
    )


def _tasks(config: LabelFile, *, vision: bool) -> "tuple[Task, ...]":
    """The tasks that the configuration names.

    Raises:
        UsageError: a name is not known, or is about pictures without --vision.
    """
    from fastchat.serve.monitor.classify.tasks import read_tasks, shipped_tasks

    known = dict(shipped_tasks())
    if config.task_file is not None:
        known |= read_tasks(Path(config.task_file))
    for name in config.task_name:
        if name not in known:
            listed = ", ".join(known)
            raise UsageError(f"task_name {name!r} is not known; known are {listed}.")
        if known[name].is_vision and not vision:
            raise UsageError(f"task_name {name!r} is about pictures; give --vision.")
    return tuple(known[name] for name in dict.fromkeys(config.task_name))


def _model(settings: LabelSettings, config: LabelFile) -> "Model":
    from fastchat.llm_judge.account import Account
    from fastchat.llm_judge.asking import ApiModel
    from fastchat.llm_judge.endpoints import EndpointSettings, endpoint_of
    from fastchat.serve.monitor.classify.runs import Rotation, SharedCache

    keys: dict[str, Any] = {
        "openai": settings.openai_api_key,
        "anthropic": settings.anthropic_api_key,
        "gemini": settings.gemini_api_key,
    }
    entries = config.endpoints or [EndpointEntry(api_base=BASES[config.api_type])]
    account = Account()
    cache = SharedCache(Path(config.output_file).with_suffix(".cache.jsonl"))
    models: list[Model] = []
    for entry in entries:
        how = EndpointSettings(
            api_base=entry.api_base,
            api_key=entry.api_key or keys[config.api_type] or "EMPTY",
            max_tries=config.max_retry + 1,
            retry_wait_s=config.retry_sleep,
        )
        name = config.model_name
        endpoint = endpoint_of(name, how)
        models.append(ApiModel(name, endpoint, how, account=account, cache=cache))
    return Rotation(models)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        LabelSettings, label, argv, prog="python3 -m fastchat.serve.monitor.classify.label"
    )


if __name__ == "__main__":
    raise SystemExit(main())
