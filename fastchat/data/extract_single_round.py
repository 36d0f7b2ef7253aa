"""Keeps the first round of every conversation."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from fastchat.data.light import LightSettings
from fastchat.data.naming import beside
from fastchat.data.pipeline import announce, run
from fastchat.data.records import Record
from fastchat.data.steps import Dropped, Outcome
from fastchat.errors import UsageError
from fastchat.settings import run_command


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractSingleRoundSettings(LightSettings):
    """Keeps the first rounds of every conversation, one unless told otherwise."""

    rounds: int = 1
    """Rounds to keep: a question with its answer each."""


@dataclass(slots=True, kw_only=True)
class ExtractSingleRound:
    """The step."""

    rounds: int = 1
    name: str = "extract_single_round"

    def prepare(self) -> None:
        """Needs nothing beforehand."""

    def apply(self, record: Record) -> Sequence[Record] | Dropped | Outcome:
        """The record with its first messages, or why not."""
        if len(record.turns) < 2:
            return Dropped(reason="fewer than two messages", record=record)
        n_messages = 2 * self.rounds
        if len(record.turns) <= n_messages:
            return (record,)
        return Outcome(
            records=(dataclasses.replace(record, turns=record.turns[:n_messages]),),
            changed={"shortened": 1},
        )


def extract_single_round(settings: ExtractSingleRoundSettings) -> None:
    """Runs the step over the files and prints the counts."""
    if settings.rounds < 1:
        raise UsageError(f"--rounds {settings.rounds} is too small; give 1 or more.")
    out_file = beside(settings, "single")
    report = run(settings, [ExtractSingleRound(rounds=settings.rounds)], out_file=out_file)
    announce(settings, f"#in: {report.read}, #out: {report.kept}", out_file=out_file)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        ExtractSingleRoundSettings,
        extract_single_round,
        argv,
        prog="python3 -m fastchat.data.extract_single_round",
    )


if __name__ == "__main__":
    raise SystemExit(main())
