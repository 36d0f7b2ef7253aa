"""Drops conversations with a list whose items are all called 1, or counts the lists anew."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from fastchat.data.light import LightSettings
from fastchat.data.numbered_lists import is_misnumbered, renumbered
from fastchat.data.pipeline import announce, run
from fastchat.data.records import Record
from fastchat.data.steps import Dropped, Outcome
from fastchat.errors import UsageError
from fastchat.settings import run_command


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterWrongFormatSettings(LightSettings):
    """Drops conversations with a numbered list that counts 1, 1."""

    fix: bool = False
    """Count such lists 1, 2, 3 and keep the conversation."""


@dataclass(slots=True, kw_only=True)
class FilterWrongFormat:
    """The step."""

    fix: bool = False
    name: str = "filter_wrong_format"

    def prepare(self) -> None:
        """Needs nothing beforehand."""

    def apply(self, record: Record) -> Sequence[Record] | Dropped | Outcome:
        """The record, or why not."""
        if not any(is_misnumbered(turn.text) for turn in record.turns):
            return (record,)
        if not self.fix:
            return Dropped(reason="list counts 1, 1", record=record)
        turns = tuple(
            dataclasses.replace(turn, text=renumbered(turn.text)) for turn in record.turns
        )
        return Outcome(
            records=(dataclasses.replace(record, turns=turns),), changed={"list renumbered": 1}
        )


@dataclass(slots=True, kw_only=True)
class FilterAndTell:
    """The step as the command runs it: tells the ids of what it drops, in their order."""

    tell: Callable[[str], None]
    name: str = "filter_wrong_format"

    def apply_all(self, records: Iterable[Record]) -> Iterator[Record | Dropped]:
        """The records that stay."""
        step = FilterWrongFormat()
        for record in records:
            result = step.apply(record)
            if isinstance(result, Dropped):
                self.tell(record.id)
                yield result
            else:
                yield record

    def resume(self, kept: Iterable[Record]) -> None:
        """Remembers nothing, so there is nothing to take up."""


def filter_wrong_format(settings: FilterWrongFormatSettings) -> None:
    """Runs the step over the files; prints the ids of what it drops, and the counts."""
    if settings.out_file is None:
        raise UsageError("name the output with --out-file; it may be the input.")
    step = FilterAndTell(tell=lambda id: announce(settings, id))
    report = run(settings, [FilterWrongFormat(fix=True) if settings.fix else step])
    announce(settings, f"#in: {report.read}, #out: {report.kept}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        FilterWrongFormatSettings,
        filter_wrong_format,
        argv,
        prog="python3 -m fastchat.data.filter_wrong_format",
    )


if __name__ == "__main__":
    raise SystemExit(main())
