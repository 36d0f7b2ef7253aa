"""Puts several data files together, each as often as it should count."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import orjson

from fastchat.data.files import expand, open_writer
from fastchat.data.light import LightSettings
from fastchat.data.pipeline import Report, announce, flow, run, write_report
from fastchat.data.records import Record
from fastchat.data.split_train_test import split_order
from fastchat.data.spool import Spool
from fastchat.data.steps import Dropped
from fastchat.errors import UsageError
from fastchat.settings import CommaList, run_command

DEFAULT_OUT_FILE = "merged.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings(LightSettings):
    """Puts several data files together in their order."""

    dedup: bool = False
    """Drop a record whose messages and system message all equal an earlier one's."""
    weights: CommaList = ()
    """A factor for each file, such as 1,2,0.5: 2 takes every record twice, 0.5 every second."""
    shuffle: bool = False
    """Shuffle the records of all files."""
    seed: int = 0
    """Seed of the shuffle."""
    source: bool = False
    """Give every record a field `source` with the name of its file."""


class Deduplicate:
    """Drops records whose messages have been seen before."""

    name = "merge"

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def apply_all(self, records: Iterable[Record]) -> Iterator[Record | Dropped]:
        """The first of those that are equal."""
        for record in records:
            if self._is_new(record):
                yield record
            else:
                yield Dropped(reason="duplicate", record=record)

    def resume(self, kept: Iterable[Record]) -> None:
        """Takes up what an earlier run has let through."""
        for record in kept:
            self._is_new(record)

    def _is_new(self, record: Record) -> bool:
        texts = [record.system, *((turn.speaker, turn.text) for turn in record.turns)]
        texts += [
            (turn.speaker, turn.text)
            for turns in (record.chosen, record.rejected)
            for turn in turns or ()
        ]
        digest = blake2b(orjson.dumps(texts), digest_size=16).digest()
        if digest in self._seen:
            return False
        self._seen.add(digest)
        return True


def merge(settings: MergeSettings) -> None:
    """Writes the records and prints their number."""
    steps = [Deduplicate()] if settings.dedup else []
    if settings.weights or settings.shuffle or settings.source:
        report = _merge_file_by_file(settings, steps)
    else:
        report = run(settings, steps, out_file=DEFAULT_OUT_FILE)
    announce(settings, f"#out: {report.kept}", out_file=DEFAULT_OUT_FILE)


def n_copies(number: int, weight: float) -> int:
    """How often the record of this number in its file stands in the output.

    As often as `number` times the weight gains a whole: after any number of records their copies
    are that number times the weight, rounded down.
    """
    return int((number + 1) * weight) - int(number * weight)


def _merge_file_by_file(settings: MergeSettings, steps: Sequence[Deduplicate]) -> Report:
    """Merges where it matters from which file a record comes, or in which order all stand."""
    paths = expand(settings.in_file)
    weights = _weights(settings, paths)
    if settings.resume or settings.rejects:
        raise UsageError(
            "--resume and --rejects cannot be combined with --weights, --shuffle or --source; "
            "leave them out."
        )
    total = Report()
    out_file = settings.out_file or DEFAULT_OUT_FILE
    with open_writer(out_file, settings.format) as writer, Spool() as spool:
        for path, weight in zip(paths, weights, strict=True):
            report = Report()
            records = flow(dataclasses.replace(settings, in_file=(path,)), steps, report)
            for number, record in enumerate(records):
                copies = n_copies(number, weight)
                if copies == 0:
                    report.drop("left out by weight", where=path, id=record.id, text="")
                report.added += max(0, copies - 1)
                if settings.source:
                    extra = {**record.extra, "source": Path(path).name}
                    record = dataclasses.replace(record, extra=extra)
                for _ in range(copies):
                    if settings.shuffle:
                        spool.append(record)
                    else:
                        writer.write(record.to_json())
            _add(total, report)
        for number in split_order(len(spool), seed=settings.seed) if settings.shuffle else ():
            writer.write(spool[int(number)].to_json())
        total.kept = writer.n_values
    write_report(settings, total)
    return total


def _weights(settings: MergeSettings, paths: Sequence[str]) -> list[float]:
    """A weight for every file."""
    if not settings.weights:
        return [1.0] * len(paths)
    try:
        weights = [float(word) for word in settings.weights]
    except ValueError:
        raise UsageError(
            f"--weights {','.join(settings.weights)} are no numbers; give some like 1,2,0.5."
        ) from None
    if len(weights) != len(paths) or min(weights) < 0:
        raise UsageError(
            f"--weights gives {len(weights)} factors for {len(paths)} files; "
            "give one for each, 0 or more."
        )
    return weights


def _add(total: Report, report: Report) -> None:
    """Adds the account of one file to that of all."""
    total.read += report.read
    total.added += report.added
    total.dropped.update(report.dropped)
    total.changed.update(report.changed)
    total.malformed.update(report.malformed)
    for reason, examples in report.examples.items():
        total.examples.setdefault(reason, examples)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(MergeSettings, merge, argv, prog="python3 -m fastchat.data.merge")


if __name__ == "__main__":
    raise SystemExit(main())
