"""Takes a sample of the conversations that are not too long."""

import dataclasses
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from fastchat.data.files import open_writer
from fastchat.data.light import LightSettings
from fastchat.data.pipeline import (
    Report,
    announce,
    flow,
    run,
    write_report,
)
from fastchat.data.records import Record
from fastchat.data.split_train_test import split_order
from fastchat.data.spool import Spool
from fastchat.data.steps import Dropped
from fastchat.data.token_counts import TokenCounter
from fastchat.errors import UsageError
from fastchat.model.tokenizer_file import TokenizerFile, read_tokenizer
from fastchat.settings import alias, run_command

DEFAULT_OUT_FILE = "sampled.json"
BEGIN, END = 0, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings(LightSettings):
    """Takes a sample of the conversations that are not too long."""

    begin: int | None = BEGIN
    """First place wanted, among the shuffled records."""
    end: int | None = END
    """First place not wanted any more; what is too long among them is left out."""
    n: int | None = None
    """Instead of places: so many records, any that are short enough, each as likely as any
    other."""
    max_length: int = 1024
    """Longest conversation wanted, its messages together."""
    unit: Literal["chars", "tokens"] = "chars"
    """What the length is counted in."""
    model_name_or_path: Annotated[str | None, alias("--model-name")] = None
    """Model whose tokenizer counts tokens."""
    keep_order: bool = False
    """Take the records in their order instead of shuffling them first."""
    seed: int = 42
    """Seed of the shuffle."""


@dataclass(slots=True, kw_only=True)
class NotTooLong:
    """Drops conversations whose messages are too long together."""

    max_length: int
    tokenizer: TokenizerFile | None = field(default=None, repr=False)
    """Counts tokens; characters without it."""
    name: str = "sample"
    _counter: TokenCounter | None = field(default=None, init=False, compare=False, repr=False)

    def prepare(self) -> None:
        """Opens the tokenizer."""
        if self.tokenizer is not None:
            self._counter = TokenCounter(self.tokenizer.open(), self.tokenizer.added)

    def apply(self, record: Record) -> Sequence[Record] | Dropped:
        """The record, or why not."""
        texts = [turn.text for turn in record.turns]
        n_units = sum(self._counter.counts(texts) if self._counter else map(len, texts))
        if n_units > self.max_length:
            return Dropped(reason="too long", record=record)
        return (record,)


@dataclass(slots=True, kw_only=True)
class Reservoir:
    """Keeps so many records, every one as likely as any other, in the order of the input."""

    n: int
    seed: int
    name: str = "sample"

    def apply_all(self, records: Iterable[Record]) -> Iterator[Record | Dropped]:
        """The records kept, after those dropped."""
        rng = random.Random(self.seed)
        held: list[tuple[int, Record]] = []
        for number, record in enumerate(records):
            if len(held) < self.n:
                held.append((number, record))
                continue
            place = rng.randrange(number + 1)
            if place < self.n:
                (_, record), held[place] = held[place], (number, record)
            yield Dropped(reason="not drawn", record=record)
        for _, record in sorted(held, key=lambda one: one[0]):
            yield record


def sample(settings: SampleSettings) -> None:
    """Writes the sample and prints its size."""
    _check(settings)
    tokenizer = read_tokenizer(settings.model_name_or_path) if settings.model_name_or_path else None
    fits = NotTooLong(max_length=settings.max_length, tokenizer=tokenizer)
    if settings.n is not None:
        whole = dataclasses.replace(settings, begin=None, end=None)
        report = run(
            whole, [fits, Reservoir(n=settings.n, seed=settings.seed)], out_file=DEFAULT_OUT_FILE
        )
    elif settings.keep_order:
        report = run(settings, [fits], out_file=DEFAULT_OUT_FILE)
    else:
        report = _sample_shuffled(settings, fits)
    announce(settings, f"#in: {report.read}, #out: {report.kept}", out_file=DEFAULT_OUT_FILE)


def _sample_shuffled(settings: SampleSettings, fits: NotTooLong) -> Report:
    """Writes what fits of the wanted places among the shuffled records."""
    report = Report()
    fits.prepare()
    whole = dataclasses.replace(settings, begin=None, end=None)
    out_file = settings.out_file or DEFAULT_OUT_FILE
    with Spool() as spool, open_writer(out_file, settings.format) as writer:
        for record in flow(whole, [], report):
            spool.append(record)
        order = split_order(len(spool), seed=settings.seed)[settings.begin : settings.end]
        for number in order:
            record = spool[int(number)]
            if isinstance(fits.apply(record), Dropped):
                report.drop("too long", where="", id=record.id, text="")
            else:
                writer.write(record.to_json())
        report.dropped["not drawn"] += len(spool) - len(order)
        report.kept = writer.n_values
    write_report(settings, report)
    return report


def _check(settings: SampleSettings) -> None:
    if settings.unit == "tokens" and not settings.model_name_or_path:
        raise UsageError("--unit tokens needs --model-name-or-path, whose tokenizer counts.")
    if settings.unit == "chars" and settings.model_name_or_path:
        raise UsageError("--model-name-or-path counts tokens; add --unit tokens or leave it out.")
    if settings.n is not None:
        if settings.n < 1:
            raise UsageError(f"--n {settings.n} is too small; give 1 or more.")
        if (settings.begin, settings.end) != (BEGIN, END):
            raise UsageError("--n draws from all records; leave --begin and --end out.")
        if settings.keep_order:
            raise UsageError("--n keeps the order anyway; leave --keep-order out.")
        if settings.resume:
            raise UsageError("--resume cannot be with --n: the sample is known only at the end.")
    elif not settings.keep_order and settings.resume:
        raise UsageError("--resume cannot be: records are shuffled; run the command anew.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(SampleSettings, sample, argv, prog="python3 -m fastchat.data.sample")


if __name__ == "__main__":
    raise SystemExit(main())
