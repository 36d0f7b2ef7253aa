"""Subtracts a base model from a fine-tuned one, so that the difference can be published.

python3 -m fastchat.model.make_delta --base llama-7b --target vicuna-7b --delta my-delta
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from fastchat import logs
from fastchat.model.delta import make_delta
from fastchat.model.upload_hub import upload_folder
from fastchat.model.weight_files import Dtype
from fastchat.settings import alias, run_command

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDeltaSettings:
    """Writes what a fine-tuned model adds to its base."""

    base_model_path: Annotated[str, alias("--base")] = tyro.MISSING
    """Folder or hub id of the base."""
    target_model_path: Annotated[str, alias("--target")] = tyro.MISSING
    """Folder or hub id of the fine-tuned model; its config and tokenizer are taken."""
    delta_path: Annotated[str, alias("--delta")] = tyro.MISSING
    """Folder to write."""
    dtype: Dtype = "float16"
    """Precision of the delta."""
    hub_repo_id: str | None = None
    """Also upload the delta to this hub repository."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    logs.setup()
    return run_command(MakeDeltaSettings, _run, argv, prog="python3 -m fastchat.model.make_delta")


def _run(settings: MakeDeltaSettings) -> None:
    folder = make_delta(
        settings.base_model_path,
        settings.target_model_path,
        settings.delta_path,
        dtype=settings.dtype,
    )
    logger.info("wrote delta=%s", folder)
    if settings.hub_repo_id:
        upload_folder(folder, settings.hub_repo_id)


if __name__ == "__main__":
    sys.exit(main())
