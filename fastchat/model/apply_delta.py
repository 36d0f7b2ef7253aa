"""Adds delta weights to the base they were made from.

python3 -m fastchat.model.apply_delta --base llama-7b --target vicuna-7b --delta vicuna-7b-delta
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from fastchat import logs
from fastchat.model.delta import apply_delta
from fastchat.model.weight_files import Dtype
from fastchat.settings import alias, run_command

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyDeltaSettings:
    """Adds delta weights to their base model and saves the whole."""

    base_model_path: Annotated[str, alias("--base")] = tyro.MISSING
    """Folder or hub id of the model that the delta was made from."""
    target_model_path: Annotated[str, alias("--target")] = tyro.MISSING
    """Folder to write."""
    delta_path: Annotated[str, alias("--delta")] = tyro.MISSING
    """Folder or hub id of the delta; its config and tokenizer are taken."""
    dtype: Dtype = "float16"
    """Precision of the written weights."""
    low_cpu_mem: bool = False
    """Published for small machines. Tensors always pass one by one, so it changes nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    logs.setup()
    return run_command(ApplyDeltaSettings, _run, argv, prog="python3 -m fastchat.model.apply_delta")


def _run(settings: ApplyDeltaSettings) -> None:
    folder = apply_delta(
        settings.base_model_path,
        settings.target_model_path,
        settings.delta_path,
        dtype=settings.dtype,
    )
    logger.info(
        "added delta=%s base=%s folder=%s", settings.delta_path, settings.base_model_path, folder
    )


if __name__ == "__main__":
    sys.exit(main())
