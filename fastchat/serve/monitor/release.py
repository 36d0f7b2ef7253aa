"""Makes a data set that may be given away from conversations or battles, by a file of steps.

    python3 -m fastchat.serve.monitor.release --config release.toml

Nothing leaves this machine without `--push`.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fastchat.errors import DataError, UsageError
from fastchat.settings import Env, run_command

if TYPE_CHECKING:
    from fastchat.arena.release import Labels, ReleaseReport, Row
    from fastchat.arena.release_statistics import Statistics
    from fastchat.arena.scratch import Scratch
    from fastchat.serve.monitor.release_file import ReleaseFile

PRESETS = "dataset_release_scripts"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSettings:
    """Filters, samples, joins, redacts and describes a data set, with a report of every step."""

    config: Path = tyro.MISSING
    """TOML file of what to release and how; docs/arena.md has one."""
    push: str | None = None
    """Upload the result to this data set of the Hugging Face hub (owner/name), as a private one."""
    token: Annotated[str | None, Env("HF_TOKEN")] = None
    """Token for --push; better in the environment."""
    debug: bool = False
    """Show tracebacks."""


def release(settings: ReleaseSettings) -> None:
    """Runs the steps, writes the data set, its statistics and the report."""
    from fastchat.serve.monitor.release_file import read_release_file

    if settings.push is not None:
        check_repo(settings.push)
    config = read_release_file(settings.config, presets())
    report, written = run(config)
    dropped = ", ".join(f"{reason} {n}" for reason, n in report.dropped.most_common()) or "none"
    taken = ", ".join(f"{kind} {n}" for kind, n in report.redacted.most_common()) or "nothing"
    print(f"read {report.read}, kept {report.kept}; left out: {dropped}")
    print(f"redacted in {report.rows_redacted} rows: {taken}")
    for path in written:
        print(f"written: {path}")
    if settings.push is not None:
        print(f"pushed: {push(settings.push, written, settings.token)}")


def presets() -> dict[str, dict[str, Any]]:
    """The rules of the published releases, by name."""
    folder = resources.files("fastchat.serve.monitor").joinpath(PRESETS)
    return {
        entry.name.removesuffix(".toml"): tomllib.loads(entry.read_text("utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    }


def run(config: "ReleaseFile") -> tuple["ReleaseReport", list[Path]]:
    """Runs the steps of a file: the report, and the files that were written."""
    from contextlib import ExitStack

    from fastchat.arena.redaction import read_redactor, redactor
    from fastchat.arena.release import ReleaseReport, release_rows
    from fastchat.arena.release_statistics import Statistics
    from fastchat.arena.scratch import Scratch
    from fastchat.arena.sources import battle_rows
    from fastchat.arena.voter_key import kept_key

    report = ReleaseReport()
    rules = config.rules()
    sources = (row for source in config.input for row in battle_rows(source, report.dropped))
    patterns = read_redactor(Path(config.redaction_file)) if config.redaction_file else redactor()
    folder = Path(config.output_dir)
    key = kept_key(Path(config.key_file) if config.key_file else folder / "release.key")
    with ExitStack() as opened:
        rows = release_rows(
            sources,
            rules,
            report=report,
            redactor=patterns if config.redact else None,
            key=key,
            labels=_labels(config, opened.enter_context(Scratch()), report.dropped),
        )
        statistics = Statistics(people=opened.enter_context(Scratch()))
        return report, _write(config, rows, statistics, report)


def _write(
    config: "ReleaseFile", rows: "Iterator[Row]", statistics: "Statistics", report: "ReleaseReport"
) -> list[Path]:
    """Writes the data set, what describes it and what became of the rows.

    Raises:
        DataError: there is no row; then nothing is written.
    """
    import itertools

    import orjson

    from fastchat.arena.row_files import write_rows, written_at_once

    first = next(rows, None)
    if first is None:
        raise DataError(f"nothing is left to release: {dict(report.dropped.most_common())}.")
    public = Path(config.output_dir) / config.name
    written = [public / f"data.{config.format}"]
    write_rows(written[0], statistics.passing(itertools.chain([first], rows)))
    for name, value in (("statistics", statistics.to_json()), ("report", report.to_json())):
        path = public / f"{name}.json"
        with written_at_once(path) as part:
            part.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")
        written.append(path)
    return written


def _labels(config: "ReleaseFile", scratch: "Scratch", refused: Counter[str]) -> "Labels | None":
    """The fields to join; None where the file asks for none."""
    from fastchat.arena.release import Labels
    from fastchat.arena.row_files import input_rows

    labels = Labels(scratch)
    for join in config.merge:
        labels.add(input_rows(Path(join.file), refused), join.fields)
    return labels if config.merge else None


def check_repo(repo: str) -> None:
    """Raises UsageError for what cannot be a data set of the hub."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UsageError(f"{repo!r} is no data set of the hub; write owner/name.")


def push(repo: str, paths: Sequence[Path], token: str | None) -> str:
    """Uploads the files to a private data set; its address.

    Raises:
        UsageError: the name is none, or the hub did not take the files.
    """
    check_repo(repo)
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    except ImportError:
        raise UsageError("an upload needs: pip install huggingface_hub.") from None
    api = HfApi(token=token)
    kind: Literal["dataset"] = "dataset"
    try:
        api.create_repo(repo, repo_type=kind, private=True, exist_ok=True)
        for path in paths:
            api.upload_file(
                path_or_fileobj=path, path_in_repo=path.name, repo_id=repo, repo_type=kind
            )
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        shown = str(error).splitlines()[0][:200]
        raise UsageError(f"{repo}: the hub did not take it: {shown}") from None
    return f"https://huggingface.co/datasets/{repo}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        ReleaseSettings, release, argv, prog="python3 -m fastchat.serve.monitor.release"
    )


if __name__ == "__main__":
    raise SystemExit(main())
