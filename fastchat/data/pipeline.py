"""Runs steps over the records of files: all cores, constant memory, everything accounted for.

A `RecordStep` looks at one record and runs in worker processes; a `StreamStep` sees all records
in order (duplicates, sampling) and runs here. The result is the same for every number of
workers, and a killed run can go on where it was.
"""

import dataclasses
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated

import tyro

from fastchat.data import files
from fastchat.data.chunks import Chunk
from fastchat.data.journal import Journal, Progress
from fastchat.data.output import FileFormat, Writer, open_writer
from fastchat.data.pool import Loss, Parse, Window, Work, Worked, as_outcome, work_through
from fastchat.data.records import Record, parse_record
from fastchat.data.report import Report, first_text
from fastchat.data.steps import Dropped, Outcome, RecordStep, Resumable, StreamStep
from fastchat.errors import DataError, ModelError, UsageError
from fastchat.settings import WordList, alias

__all__ = [
    "Dropped",
    "InFile",
    "OutFile",
    "Outcome",
    "PipelineSettings",
    "RecordStep",
    "Report",
    "Resumable",
    "StreamStep",
    "announce",
    "flow",
    "run",
    "write_report",
]


InFile = Annotated[WordList, alias("--in")]
OutFile = Annotated[str | None, alias("--out")]
"""Types of the two fields, for commands that give them another default or help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """What every data command can be told."""

    in_file: InFile = tyro.MISSING
    """Files or patterns: JSON, JSON Lines or Parquet, plain, gzip or Zstandard; - is standard
    input."""
    out_file: OutFile = None
    """Where to write; the name says the format, - is standard output."""
    begin: int | None = None
    """First record wanted, counted as Python slices do."""
    end: int | None = None
    """First record not wanted any more."""
    workers: Annotated[int | None, alias("--num-proc")] = None
    """Processes; all cores unless given. The result does not depend on it."""
    shard: str | None = None
    """I/N: only every N-th record, from the I-th on (0/4 to 3/4 for four machines)."""
    report: str | None = None
    """Write the account of the run to this JSON file."""
    rejects: str | None = None
    """Write every dropped record, its reason and step, to this JSON Lines file."""
    strict: bool = False
    """Stop with status 2 at the first value that is no record."""
    resume: bool = False
    """Go on where a killed run of the same command was."""
    quiet: bool = False
    """No progress bar."""
    format: FileFormat | None = None
    """Format of the output, where its name does not say it."""
    debug: bool = False
    """Show tracebacks of errors."""


_OBJECTS_BETWEEN_COLLECTIONS = 50_000

_OF_NO_EFFECT = ("workers", "report", "resume", "quiet", "debug")
"""Settings that do not change the output."""


def run(
    settings: PipelineSettings,
    steps: Sequence[RecordStep | StreamStep],
    *,
    out_file: str | None = None,
    need_id: bool = True,
    parse: Parse = parse_record,
) -> Report:
    """Reads the input, applies the steps and writes what they leave.

    Args:
        settings: what the command was told.
        steps: in order; those before the first StreamStep run in worker processes.
        out_file: where to write if the settings do not say it.
        need_id: whether a record with `conversations` and no id is malformed.
        parse: makes a record of a value of the input, for forms that are not ours.

    Raises:
        DataError: the input is damaged, holds no record at all, or the output cannot be written.
        UsageError: a setting cannot be, or a value is no record and the run is strict.
    """
    target = settings.out_file or out_file
    if target is None:
        raise UsageError("name the output with --out-file, or - for standard output.")
    plan = _Plan(settings, steps, need_id=need_id, parse=parse)
    report = Report()
    journal, progress = _journal(settings, plan, target)
    marks = progress.marks if progress else (None, None)
    with ExitStack() as opened:
        opened.enter_context(_rare_collections())
        writer = opened.enter_context(open_writer(target, settings.format, mark=marks[0]))
        rejects = None
        if settings.rejects:
            rejects = opened.enter_context(open_writer(settings.rejects, "jsonl", mark=marks[1]))
        if progress:
            report.restore(dict(progress.report))
            _catch_up(plan.stream_steps, writer)

        outputs = [x for x in (writer, rejects) if x is not None]

        def after_chunk(done: Worked, n_done: int) -> None:
            writer.write_laid_out(done.laid_out, done.n_laid_out)
            report.kept += done.n_laid_out
            # Marked even where it is not saved: marks decide where compressed frames end.
            marks = [mark for output in outputs if (mark := output.mark())]
            if journal is not None and len(marks) == len(outputs) and journal.is_due():
                journal.save(Progress(chunks=n_done, marks=tuple(marks), report=report.state()))

        if not plan.stream_steps:
            plan.work = dataclasses.replace(plan.work, layout=writer.layout)
        with _guarded(outputs, journal):
            records = _flow(plan, report, rejects, skip=progress, after_chunk=after_chunk)
            for record in records:
                writer.write(record.to_json())
                report.kept += 1
            _refuse_no_records(report, settings)
    if journal is not None:
        journal.remove()
    write_report(settings, report)
    return report


def flow(
    settings: PipelineSettings,
    steps: Sequence[RecordStep | StreamStep],
    report: Report,
    *,
    need_id: bool = True,
) -> Iterator[Record]:
    """The records that the steps leave, for commands that write in a way of their own.

    Counts into `report`, `kept` included; writes the rejects if asked for.

    Raises:
        As `run` does.
    """
    plan = _Plan(settings, steps, need_id=need_id)
    with ExitStack() as opened:
        rejects = None
        if settings.rejects:
            rejects = opened.enter_context(open_writer(settings.rejects, "jsonl"))
        for record in _flow(plan, report, rejects):
            report.kept += 1
            yield record
        _refuse_no_records(report, settings)


def announce(settings: PipelineSettings, text: str, *, out_file: str | None = None) -> None:
    """Prints a command's summary: on standard error if the records go to standard output."""
    to_records = (settings.out_file or out_file) == files.STANDARD
    print(text, file=sys.stderr if to_records else sys.stdout)


def write_report(settings: PipelineSettings, report: Report) -> None:
    """Writes the account to the file asked for, if one was."""
    if settings.report:
        text = json.dumps(report.to_json(), ensure_ascii=False, indent=2)
        try:
            with open(settings.report, "w", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise DataError(f"cannot write {settings.report}: {error.strerror}.") from None


class _Plan:
    """The settings, checked, and the steps, sorted by where they run."""

    def __init__(
        self,
        settings: PipelineSettings,
        steps: Sequence[RecordStep | StreamStep],
        *,
        need_id: bool,
        parse: Parse = parse_record,
    ) -> None:
        cut = next((i for i, x in enumerate(steps) if isinstance(x, StreamStep)), len(steps))
        record_steps = [x for x in steps[:cut] if not isinstance(x, StreamStep)]
        self.stream_steps = list(steps[cut:])
        self.inputs = files.expand(settings.in_file)
        self.quiet = settings.quiet
        self.workers = _workers(settings)
        self.work = Work(
            steps=tuple(record_steps),
            window=_window(settings, self.inputs),
            strict=settings.strict,
            need_id=need_id,
            parse=parse,
            keep_values=settings.rejects is not None,
        )


def _flow(
    plan: _Plan,
    report: Report,
    rejects: Writer | None,
    *,
    skip: Progress | None = None,
    after_chunk: Callable[[Worked, int], None] | None = None,
) -> Iterator[Record]:
    """The records that all steps leave."""

    def lose(loss: Loss) -> None:
        report.drop(loss.reason, where=loss.where, id=loss.id, text=loss.text)
        if loss.is_malformed:
            report.malformed[loss.reason] += 1
        if rejects is not None:
            fields = {"reason": loss.reason, "step": loss.step, "where": loss.where}
            rejects.write({**fields, "record": loss.value})

    def from_workers() -> Iterator[Record]:
        n_done = skip.chunks if skip else 0
        chunks = _placed(plan, skip=n_done)
        with _bar(plan) as advance:
            for done in work_through(chunks, plan.work, workers=plan.workers):
                report.read += done.n_read
                report.added += done.added
                report.changed.update(done.changed)
                for item in done.items:
                    if isinstance(item, Loss):
                        lose(item)
                    else:
                        yield item
                n_done += 1
                if after_chunk:
                    after_chunk(done, n_done)
                advance(done.position)

    records = from_workers()
    for step in plan.stream_steps:
        if isinstance(step, StreamStep):
            records = _without_dropped(step.apply_all(records), step.name, plan=plan, lose=lose)
        else:
            records = _stepped_here(step, records, report, plan=plan, lose=lose)
    return records


def _without_dropped(
    answers: Iterator[Record | Dropped], step: str, *, plan: _Plan, lose: Callable[[Loss], None]
) -> Iterator[Record]:
    """The records among a stream step's answers."""
    for answer in answers:
        if isinstance(answer, Dropped):
            lose(_loss_here(answer.record, answer.reason, step, plan=plan))
        else:
            yield answer


def _stepped_here(
    step: RecordStep,
    records: Iterator[Record],
    report: Report,
    *,
    plan: _Plan,
    lose: Callable[[Loss], None],
) -> Iterator[Record]:
    """What a record step leaves when it comes after a stream step."""
    step.prepare()
    for record in records:
        outcome = as_outcome(step.apply(record))
        report.changed.update(outcome.changed)
        if outcome.records:
            report.added += len(outcome.records) - 1
            yield from outcome.records
        else:
            lose(_loss_here(record, outcome.dropped or "nothing left", step.name, plan=plan))


def _loss_here(record: Record, reason: str, step: str, *, plan: _Plan) -> Loss:
    value = record.to_json() if plan.work.keep_values else None
    return Loss(
        reason=reason, step=step, where="", id=record.id, text=first_text(record), value=value
    )


def _placed(plan: _Plan, *, skip: int = 0) -> Iterator[tuple[int, Chunk]]:
    """The chunks that may hold wanted values, each with the place of its first among all."""
    window = plan.work.window
    first = 0
    for chunk in files.read_chunks(plan.inputs, decodes=plan.workers == 1):
        if window.end is not None and first >= window.end:
            return
        if window.touches(first, chunk.n_values):
            if skip:
                skip -= 1
            else:
                yield first, chunk
        first += chunk.n_values


def _window(settings: PipelineSettings, inputs: Sequence[str]) -> Window:
    begin, end = settings.begin or 0, settings.end
    if begin < 0 or (end is not None and end < 0):
        if files.STANDARD in inputs:
            raise UsageError("a negative --begin or --end needs a file, not standard input.")
        n_values = sum(chunk.n_values for chunk in files.read_chunks(inputs))
        begin, end, _ = slice(begin, end).indices(n_values)
    shard, n_shards = 0, 1
    if settings.shard is not None:
        numbers = settings.shard.split("/")
        if len(numbers) == 2 and all(x.isdecimal() for x in numbers):
            shard, n_shards = int(numbers[0]), int(numbers[1])
        else:
            n_shards = 0
        if shard >= n_shards:
            raise UsageError(
                f"--shard {settings.shard} is not I/N with I from 0 to N-1, for example 0/4."
            )
    return Window(begin=begin, end=end, shard=shard, n_shards=n_shards)


def _workers(settings: PipelineSettings) -> int:
    if settings.workers is not None:
        if settings.workers < 1:
            raise UsageError(f"--workers {settings.workers} is less than 1.")
        return settings.workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _refuse_no_records(report: Report, settings: PipelineSettings) -> None:
    """An input without a single record is the wrong file."""
    n_malformed = report.malformed.total()
    if report.read and n_malformed == report.read:
        reasons = ", ".join(f"{name}: {n}" for name, n in report.malformed.most_common(3))
        raise DataError(
            f"none of the {report.read} values in {' '.join(settings.in_file)} is a record "
            f"({reasons}). A record has an id and conversations."
        )


def _journal(
    settings: PipelineSettings, plan: _Plan, target: str
) -> tuple[Journal | None, Progress | None]:
    """Where the run keeps its progress, if it can be taken up again, and the earlier run's."""
    steps = plan.stream_steps
    can_resume = (
        all(os.path.isfile(path) for path in plan.inputs)
        and target != files.STANDARD
        and (not steps or (len(steps) == 1 and isinstance(steps[0], Resumable)))
    )
    if not can_resume:
        if settings.resume:
            print("this run cannot be taken up again; it begins anew.", file=sys.stderr)
        return None, None
    facts = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name not in _OF_NO_EFFECT
    }
    journal = Journal(target, inputs=plan.inputs, settings=facts)
    if settings.resume:
        return journal, journal.load()
    journal.remove()
    return journal, None


def _catch_up(steps: Sequence[RecordStep | StreamStep], writer: Writer) -> None:
    """Shows a stream step the records that the earlier run had written."""
    if not steps or writer.part is None:
        return
    assert isinstance(steps[0], Resumable)

    def written() -> Iterator[Record]:
        for found in files.read_values([str(writer.part)], open_ended=True):
            record = parse_record(found.value, where=found.where)
            if isinstance(record, Record):
                yield record

    steps[0].resume(written())


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Looks for garbage more rarely: records hold no cycles, and to look takes a tenth of a run."""
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _guarded(outputs: Sequence[Writer], journal: Journal | None) -> Iterator[None]:
    """Keeps unfinished outputs only when a later run can use them."""
    try:
        yield
    except (KeyboardInterrupt, ModelError):
        if journal is not None:
            for output in outputs:
                output.keep_part()
        raise
    except BaseException:
        if journal is not None:
            journal.remove()
        raise


@contextmanager
def _bar(plan: _Plan) -> Iterator[Callable[[int], None]]:
    """Shows on a terminal how far the input has been read; gives what moves the bar."""
    if plan.quiet or not sys.stderr.isatty():
        yield lambda position: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    total = files.stored_bytes(plan.inputs)
    before = last = 0
    # No thread of its own: worker processes are copies of this one.
    with Bar(console=Console(stderr=True), auto_refresh=False, transient=True) as bar:
        task = bar.add_task("reading", total=total)

        def advance(position: int) -> None:
            nonlocal before, last
            if position < last:
                before += last
            last = position
            bar.update(task, completed=before + position, refresh=True)

        yield advance
