"""Adds what moderation said, by the conversation's id; writes NAME.s3.json."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastchat.serve.monitor.dataset_release_scripts.steps import PROGRAMS, MergeSettings, merge
from fastchat.settings import run_command


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeTagSettings(MergeSettings):
    """Adds `openai_moderation` of another file by the row's id."""

    field: str = "openai_moderation"
    """Field to add."""


def merge_oai_tag(settings: MergeTagSettings) -> None:
    """Joins the two files."""
    merge(settings, ".s3")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        MergeTagSettings,
        merge_oai_tag,
        argv,
        prog=f"{PROGRAMS}.lmsys_chat_1m.merge_oai_tag",
    )


if __name__ == "__main__":
    raise SystemExit(main())
