"""Uploads a model to the hub: its weights in half precision, its tokenizer, or both.

python3 -m fastchat.model.upload_hub --model-path ~/vicuna-7b --hub-repo-id you/vicuna-7b
"""

import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from fastchat import logs
from fastchat.errors import UnavailableError
from fastchat.model.convert_fp16 import convert
from fastchat.model.weight_files import folder_of
from fastchat.settings import run_command

logger = logging.getLogger(__name__)

WEIGHTS = ("*.safetensors", "*.index.json", "config.json", "generation_config.json")
"""Files of the component `model`; every other file belongs to the tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSettings:
    """Uploads a model to the hub, in half precision."""

    model_path: str = tyro.MISSING
    """Folder of the model."""
    hub_repo_id: str = tyro.MISSING
    """Repository to write, `owner/name`; made if it is not there."""
    component: Literal["all", "model", "tokenizer"] = "all"
    """What to upload."""
    private: bool = False
    """Make a new repository private."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    logs.setup()
    return run_command(UploadSettings, _run, argv, prog="python3 -m fastchat.model.upload_hub")


def _run(settings: UploadSettings) -> None:
    with tempfile.TemporaryDirectory(prefix="fastchat-upload-") as temporary:
        folder = folder_of(settings.model_path)
        if settings.component != "tokenizer":
            folder = Path(temporary) / "model"
            convert(settings.model_path, folder)
        upload_folder(
            folder,
            settings.hub_repo_id,
            allow=WEIGHTS if settings.component == "model" else None,
            ignore=WEIGHTS if settings.component == "tokenizer" else None,
            private=settings.private,
        )


def upload_folder(
    folder: Path,
    repo_id: str,
    *,
    allow: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    private: bool = False,
) -> None:
    """Uploads the files of a folder in one commit.

    Raises:
        UnavailableError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(repo_id, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=list(allow) if allow else None,
            ignore_patterns=list(ignore) if ignore else None,
        )
    except Exception as error:  # of whichever HTTP library this version of the client stands on
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnavailableError(
            f"the hub did not take {repo_id}: {reason}. Check the connection, and log in with "
            "'hf auth login'."
        ) from error
    logger.info("uploaded %s", commit.commit_url)


if __name__ == "__main__":
    sys.exit(main())
