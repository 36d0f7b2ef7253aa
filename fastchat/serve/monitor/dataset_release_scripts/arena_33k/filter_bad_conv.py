"""Leaves out battles that should not be given away, and counts why."""

from collections.abc import Sequence

from fastchat.serve.monitor.dataset_release_scripts.steps import (
    PROGRAMS,
    FilterSettings,
    filter_rows,
    preset_rules,
)
from fastchat.settings import run_command


def filter_bad_conv(settings: FilterSettings) -> None:
    """Filters by the published rules; writes NAME.out.json."""
    filter_rows(settings, preset_rules("arena_33k"), ".out")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        FilterSettings,
        filter_bad_conv,
        argv,
        prog=f"{PROGRAMS}.arena_33k.filter_bad_conv",
    )


if __name__ == "__main__":
    raise SystemExit(main())
