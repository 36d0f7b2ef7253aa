"""Describes a data set: people, models, languages, turns, lengths."""

from collections.abc import Sequence

from fastchat.serve.monitor.dataset_release_scripts.steps import (
    PROGRAMS,
    StatsSettings,
    compute_stats,
)
from fastchat.settings import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        StatsSettings,
        compute_stats,
        argv,
        prog=f"{PROGRAMS}.lmsys_chat_1m.compute_stats",
    )


if __name__ == "__main__":
    raise SystemExit(main())
