"""Counts the different people of a data set."""

from collections.abc import Sequence

from fastchat.serve.monitor.dataset_release_scripts.steps import (
    PROGRAMS,
    CountSettings,
    count_users,
)
from fastchat.settings import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        CountSettings,
        count_users,
        argv,
        prog=f"{PROGRAMS}.arena_33k.count_unique_users",
    )


if __name__ == "__main__":
    raise SystemExit(main())
