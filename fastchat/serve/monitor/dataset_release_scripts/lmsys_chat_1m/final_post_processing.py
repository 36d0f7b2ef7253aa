"""Removes who asked and when, and what belongs to a person in the texts; writes NAME.s2.json."""

from collections.abc import Sequence

from fastchat.serve.monitor.dataset_release_scripts.steps import PROGRAMS, FinishSettings, finish
from fastchat.settings import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        FinishSettings,
        finish,
        argv,
        prog=f"{PROGRAMS}.lmsys_chat_1m.final_post_processing",
    )


if __name__ == "__main__":
    raise SystemExit(main())
