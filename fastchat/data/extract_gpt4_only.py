"""Keeps the conversations that one model answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from fastchat.data.light import LightSettings
from fastchat.data.naming import beside
from fastchat.data.pipeline import announce, run
from fastchat.data.records import Record
from fastchat.data.steps import Dropped
from fastchat.settings import run_command

GPT4 = ("gpt4", "gpt-4")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractGpt4OnlySettings(LightSettings):
    """Keeps the conversations whose field `model` is gpt4, or that have none."""

    model: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Model to keep instead of gpt4 (or gpt-4); may be given several times."""
    only_marked: bool = False
    """Drop conversations that do not say which model answered."""


@dataclass(slots=True, kw_only=True)
class ExtractGpt4Only:
    """The step."""

    models: tuple[str, ...] = GPT4
    only_marked: bool = False
    name: str = "extract_gpt4_only"

    def prepare(self) -> None:
        """Needs nothing beforehand."""

    def apply(self, record: Record) -> Sequence[Record] | Dropped:
        """The record, or why not."""
        model = record.extra.get("model")
        # Some programs write an empty name where they know none.
        if model is None or model == "":
            if self.only_marked:
                return Dropped(reason="no model named", record=record)
        elif model not in self.models:
            return Dropped(reason="another model", record=record)
        return (record,)


def extract_gpt4_only(settings: ExtractGpt4OnlySettings) -> None:
    """Runs the step over the files and prints the counts."""
    out_file = beside(settings, "gpt4")
    step = ExtractGpt4Only(models=settings.model or GPT4, only_marked=settings.only_marked)
    report = run(settings, [step], out_file=out_file)
    announce(settings, f"#in: {report.read}, #out: {report.kept}", out_file=out_file)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        ExtractGpt4OnlySettings,
        extract_gpt4_only,
        argv,
        prog="python3 -m fastchat.data.extract_gpt4_only",
    )


if __name__ == "__main__":
    raise SystemExit(main())
