"""Copies a model with its weights in half precision.

python3 -m fastchat.model.convert_fp16 --in ~/vicuna-7b-float32 --out ~/vicuna-7b
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastchat import logs
from fastchat.model.weight_files import Dtype, check_free, open_checkpoint, write_model
from fastchat.settings import alias, run_command

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSettings:
    """Copies a model, its weights in another precision."""

    in_checkpoint: Annotated[str, alias("--in")] = tyro.MISSING
    """Folder or hub id of the model."""
    out_checkpoint: Annotated[str, alias("--out")] = tyro.MISSING
    """Folder to write."""
    dtype: Dtype = "float16"
    """Precision of the copy."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    logs.setup()
    return run_command(ConvertSettings, _run, argv, prog="python3 -m fastchat.model.convert_fp16")


def _run(settings: ConvertSettings) -> None:
    convert(settings.in_checkpoint, Path(settings.out_checkpoint), dtype=settings.dtype)
    logger.info("wrote folder=%s dtype=%s", settings.out_checkpoint, settings.dtype)


def convert(path: str, target: Path, *, dtype: Dtype = "float16") -> None:
    """Copies a model's folder with its weights in `dtype`.

    Raises:
        UsageError: there is no such model, or the target is there already.
        DataError: a weight does not fit `dtype`.
    """
    check_free(target)
    source = open_checkpoint(path)
    write_model(source.tensors(), target, like=source.folder, dtype=dtype)


if __name__ == "__main__":
    sys.exit(main())
