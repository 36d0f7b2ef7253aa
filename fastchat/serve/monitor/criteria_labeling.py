"""Labels prompts by the seven criteria of a hard one, with any judge."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from fastchat.llm_judge.endpoints import EndpointSettings
from fastchat.settings import Group, run_command

TASK = "criteria_v0.1"
TAG = "criteria_tag"


@dataclass(frozen=True, slots=True, kw_only=True)
class CriteriaSettings:
    """Adds `criteria_tag` to battles: which of seven criteria each prompt meets."""

    input_file: str = tyro.MISSING
    """Battles with their texts: a file, a folder of logs, or a store's URL."""
    output_file: Path = tyro.MISSING
    """JSON Lines; rows in it are done, and the command goes on from them."""
    cache_file: Path | None = None
    """Rows of another run, whose labels are taken."""
    convert_to_json: bool = False
    """Write the rows as one JSON array beside it as well."""
    model: str = "gpt-4o-mini"
    """Model that judges."""
    max_tokens: int = 512
    """Longest reply."""
    endpoint: Group[EndpointSettings] = EndpointSettings()  # noqa: RUF009 - frozen
    debug: bool = False
    """Show tracebacks."""


def criteria_labeling(settings: CriteriaSettings) -> int:
    """Labels, and prints what was done and what failed."""
    from fastchat.llm_judge.account import Account
    from fastchat.llm_judge.asking import ApiModel, Cache
    from fastchat.llm_judge.endpoints import endpoint_of
    from fastchat.llm_judge.running import say
    from fastchat.serve.monitor.classify.labelling import Labelling
    from fastchat.serve.monitor.classify.runs import LabelRun, run_labels
    from fastchat.serve.monitor.classify.tasks import shipped_tasks

    settings.endpoint.check()
    labelling = Labelling(
        tasks=(shipped_tasks()[TASK],), max_tokens=settings.max_tokens, bare_tag=TAG
    )
    run = LabelRun(
        input=settings.input_file, output=settings.output_file, cache=settings.cache_file
    )
    model = ApiModel(
        settings.model,
        endpoint_of(settings.model, settings.endpoint),
        settings.endpoint,
        account=Account(max_cost=settings.endpoint.max_cost),
        cache=Cache(
            settings.output_file.with_suffix(".cache.jsonl"), is_read=settings.endpoint.cache
        ),
    )
    n_done, n_failed, told = asyncio.run(
        run_labels(
            run,
            labelling,
            model,
            parallel=settings.endpoint.parallel,
            to_json=settings.convert_to_json,
        )
    )
    print(f"labelled: {n_done} rows in {settings.output_file}")
    say(told)
    return 1 if n_failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        CriteriaSettings,
        criteria_labeling,
        argv,
        prog="python3 -m fastchat.serve.monitor.criteria_labeling",
    )


if __name__ == "__main__":
    raise SystemExit(main())
