"""Adds a field of another file, by the battle's id; writes NAME_added.json."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastchat.serve.monitor.dataset_release_scripts.steps import PROGRAMS, MergeSettings, merge
from fastchat.settings import run_command


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeFieldSettings(MergeSettings):
    """Adds `toxic_chat_tag`, or another field of another file, by the row's id."""

    field: str = "toxic_chat_tag"
    """Field to add."""


def merge_field(settings: MergeFieldSettings) -> None:
    """Joins the two files."""
    merge(settings, "_added")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        MergeFieldSettings,
        merge_field,
        argv,
        prog=f"{PROGRAMS}.arena_33k.merge_field",
    )


if __name__ == "__main__":
    raise SystemExit(main())
