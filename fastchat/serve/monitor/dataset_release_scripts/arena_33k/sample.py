"""Draws battles at random."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastchat.serve.monitor.dataset_release_scripts.steps import PROGRAMS, SampleSettings, sample
from fastchat.settings import run_command


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaSampleSettings(SampleSettings):
    """Draws battles at random and keeps their order."""

    seed: int = 0
    """Seed of the draw."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        ArenaSampleSettings,
        sample,
        argv,
        prog=f"{PROGRAMS}.arena_33k.sample",
    )


if __name__ == "__main__":
    raise SystemExit(main())
