"""What the steps of a release do to a file of rows; their commands differ in defaults alone.

Each reads one file and writes another beside it, unless `--out-file` names one, and says what
became of the rows. They work row by row, on the same functions as `release`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fastchat.errors import DataError, UsageError
from fastchat.settings import Env

if TYPE_CHECKING:
    from fastchat.arena.release import ReleaseRules

PROGRAMS = "python3 -m fastchat.serve.monitor.dataset_release_scripts"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """Reads rows and writes rows."""

    in_file: Path = tyro.MISSING
    """Rows: .json, .jsonl, .csv or .parquet."""
    out_file: Path | None = None
    """Where to write; by default beside the input."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings(StepSettings):
    """Draws rows at random and keeps their order."""

    number: int = tyro.MISSING
    """Rows to draw."""
    seed: int = 42
    """Seed of the draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSettings(StepSettings):
    """Leaves out what should not be given away, and counts why."""

    sample: int | None = None
    """Draw so many of the rows that are left."""
    block_words_file: Path | None = None
    """Words, one a line; rows that hold one are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings(StepSettings):
    """Adds a field of another file by the row's id."""

    tag_file: Path = tyro.MISSING
    """Rows with the same ids and the field."""
    field: str = tyro.MISSING
    """Field to add."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishSettings(StepSettings):
    """Removes when it was said and by whom, and takes out of texts what belongs to one."""

    redact: bool = True
    """Take addresses, numbers and keys out of the texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountSettings:
    """Counts rows and different people."""

    in_file: Path = tyro.MISSING
    """Rows: .json, .jsonl, .csv or .parquet."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsSettings(CountSettings):
    """Counts people, models, languages, turns and lengths, and draws them."""

    output_dir: Path | None = None
    """Write statistics.json and the charts, statistics.html, here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSettings:
    """Uploads files as a private data set of the Hugging Face hub."""

    in_file: Path = tyro.MISSING
    """File to upload."""
    repo: str = tyro.MISSING
    """Data set of the hub: owner/name."""
    token: Annotated[str | None, Env("HF_TOKEN")] = None
    """Its token; better in the environment."""
    debug: bool = False
    """Show tracebacks."""


def sample(settings: SampleSettings) -> None:
    """Draws rows."""
    from fastchat.arena.release import sampled

    if settings.number < 1:
        raise UsageError(f"--number {settings.number} is below 1.")
    dropped: Counter[str] = Counter()
    rows = sampled(_rows(settings, dropped), settings.number, settings.seed, dropped)
    _write(settings, rows, dropped, "_sample")


def filter_rows(settings: FilterSettings, rules: "ReleaseRules", mark: str) -> None:
    """Leaves out what the rules say; `mark` stands in the name of the output."""
    import dataclasses

    from fastchat.arena.release import filtered, sampled

    if settings.sample is not None and settings.sample < 1:
        raise UsageError(f"--sample {settings.sample} is below 1.")
    rules = dataclasses.replace(rules, block_words=_words(settings.block_words_file))
    dropped: Counter[str] = Counter()
    rows = filtered(_rows(settings, dropped), rules, dropped)
    _write(settings, sampled(rows, settings.sample, rules.seed, dropped), dropped, mark)


def preset_rules(name: str) -> "ReleaseRules":
    """What the published release `name` leaves out."""
    from fastchat.serve.monitor.release import presets
    from fastchat.serve.monitor.release_file import ReleaseFile

    given = presets()[name] | {"drop_flagged": True}
    return ReleaseFile.model_validate({"input": ["-"], **given}).rules()


def _words(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        return tuple(path.read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--block-words-file {path} cannot be read: {error}.") from None


def finish(settings: FinishSettings) -> None:
    """Removes fields and what belongs to people."""
    from fastchat.arena.redaction import redactor
    from fastchat.arena.release import VOTERS, ReleaseReport, ReleaseRules, finished

    report = ReleaseReport()
    rules = ReleaseRules(drop_fields=frozenset(("tstamp", *VOTERS)))
    found = redactor() if settings.redact else None
    dropped: Counter[str] = Counter()
    rows = (
        finished(row, rules, report, redactor=found, key=b"") for row in _rows(settings, dropped)
    )
    _write(settings, rows, dropped, ".s2")
    taken = ", ".join(f"{kind} {n}" for kind, n in report.redacted.most_common()) or "nothing"
    print(f"redacted in {report.rows_redacted} rows: {taken}")


def merge(settings: MergeSettings, mark: str) -> None:
    """Adds the field to the rows that the other file knows."""
    from fastchat.arena.release import Labels
    from fastchat.arena.row_files import input_rows
    from fastchat.arena.scratch import Scratch

    dropped: Counter[str] = Counter()
    n_known = 0

    def counted(rows: Iterable[Row]) -> Iterator[Row]:
        nonlocal n_known
        for row in rows:
            n_known += settings.field in row
            yield row

    with Scratch() as scratch:
        labels = Labels(scratch)
        labels.add(input_rows(settings.tag_file, dropped), [settings.field])
        rows = counted(labels.joined(_rows(settings, dropped)))
        _write(settings, rows, dropped, mark)
    print(f"rows with {settings.field}: {n_known}")


def count_users(settings: CountSettings) -> None:
    """Prints the rows and the people."""
    counted = _statistics(settings)
    print(f"rows: {counted['rows']}")
    print(f"unique users: {counted['users']}")


def compute_stats(settings: StatsSettings) -> None:
    """Prints the statistics, and writes them where a folder is named."""
    import orjson

    from fastchat.arena.row_files import written_at_once

    counted = _statistics(settings)
    data = orjson.dumps(counted, option=orjson.OPT_INDENT_2) + b"\n"
    print(data.decode(), end="")
    if settings.output_dir is None:
        return
    files = {"statistics.json": data, "statistics.html": _charts(counted).encode()}
    for name, content in files.items():
        with written_at_once(settings.output_dir / name) as part:
            part.write_bytes(content)
        print(f"written: {settings.output_dir / name}")


def upload(settings: UploadSettings) -> None:
    """Uploads the file to a private data set."""
    from fastchat.serve.monitor.release import push

    if not settings.in_file.is_file():
        raise DataError(f"--in-file {settings.in_file} is not there.")
    print(f"pushed: {push(settings.repo, [settings.in_file], settings.token)}")


def _rows(settings: StepSettings, dropped: Counter[str]) -> Iterator[Row]:
    from fastchat.arena.row_files import input_rows

    return input_rows(settings.in_file, dropped)


def _write(settings: StepSettings, rows: Iterable[Row], dropped: Counter[str], mark: str) -> None:
    """Writes the rows and says how many, and why others are not there."""
    from fastchat.arena.row_files import write_rows

    path = settings.out_file or beside(settings.in_file, mark)
    if path.resolve() == settings.in_file.resolve():
        raise UsageError(f"--out-file {path} is the input; name another file.")
    n = write_rows(path, rows)
    for reason, times in dropped.most_common():
        print(f"left out, {reason}: {times}")
    print(f"rows: {n}, written: {path}")


def beside(path: Path, mark: str) -> Path:
    """The name of a step's output: the input's with a mark; `.s2` takes the place of `.s1`."""
    stem = path.stem
    if mark[:2] == ".s" and stem[-3:-1] == ".s":
        stem = stem[:-3]
    return path.with_name(f"{stem}{mark}{path.suffix}")


def _statistics(settings: CountSettings) -> dict[str, Any]:
    from fastchat.arena.release_statistics import Statistics
    from fastchat.arena.row_files import input_rows
    from fastchat.arena.scratch import Scratch

    with Scratch() as people:
        counted = Statistics(people=people)
        for row in input_rows(settings.in_file, Counter()):
            counted.add(row)
        if not counted.rows:
            raise DataError(f"{settings.in_file.name} holds no rows.")
        return counted.to_json()


def _charts(counted: dict[str, Any]) -> str:
    """One page with a bar chart of each count."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    shown = [name for name in ("models", "languages", "turns", "outcomes") if counted[name]]
    figure = make_subplots(rows=len(shown), cols=1, subplot_titles=shown)
    for place, name in enumerate(shown, 1):
        bars = go.Bar(x=list(counted[name]), y=list(counted[name].values()))
        figure.add_trace(bars, row=place, col=1)
    figure.update_layout(showlegend=False, height=320 * len(shown))
    figure.update_xaxes(type="category")
    return figure.to_html(include_plotlyjs=True)
