"""Uploads battles to the Hugging Face hub, as a private data set."""

from collections.abc import Sequence

from fastchat.serve.monitor.dataset_release_scripts.steps import PROGRAMS, UploadSettings, upload
from fastchat.settings import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        UploadSettings,
        upload,
        argv,
        prog=f"{PROGRAMS}.arena_33k.upload_hf_dataset",
    )


if __name__ == "__main__":
    raise SystemExit(main())
