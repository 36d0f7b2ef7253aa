"""Draws conversations at random."""

from collections.abc import Sequence

from fastchat.serve.monitor.dataset_release_scripts.steps import PROGRAMS, SampleSettings, sample
from fastchat.settings import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        SampleSettings,
        sample,
        argv,
        prog=f"{PROGRAMS}.lmsys_chat_1m.sample",
    )


if __name__ == "__main__":
    raise SystemExit(main())
