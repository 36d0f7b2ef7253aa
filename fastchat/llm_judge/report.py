"""Writes a report of a run: one HTML file to read or send, and beside it Markdown and JSON.

python3 -m fastchat.llm_judge.report --bench-name fastchat_bench --judge-model gpt-4
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastchat.errors import UsageError
from fastchat.llm_judge.bench_settings import BenchSettings
from fastchat.llm_judge.extras import needing_extras
from fastchat.settings import WordList, run_command

if TYPE_CHECKING:
    from fastchat.llm_judge.show_result import Shown

PROG = "python3 -m fastchat.llm_judge.report"

Kind = Literal["single", "pairwise-baseline", "pairwise-all"]
TITLES: dict[Kind, str] = {
    "single": "Grades",
    "pairwise-baseline": "Compared with {baseline}",
    "pairwise-all": "Compared with each other",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSettings(BenchSettings):
    """Writes what judges decided as a page, as Markdown and as JSON."""

    judge_model: WordList = ("gpt-4",)
    """Judge whose verdicts are shown; several, with blanks between, are a jury."""
    baseline_model: str = "gpt-3.5-turbo"
    """Whom everyone was compared with in the mode pairwise-baseline."""
    model_list: WordList = ()
    """Only these models."""
    mode: Literal["all", "single", "pairwise-baseline", "pairwise-all"] = "all"
    """Which judgments; `all` takes grades and comparisons where they are."""
    output: Path | None = None
    """The HTML file; by default report/JUDGE.html in the benchmark's folder."""
    answers: bool = True
    """Show every answer and judgment on the page; without them it is small."""


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when the report is written."""
    return run_command(ReportSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: ReportSettings) -> None:
    from fastchat.llm_judge.folders import file_name
    from fastchat.llm_judge.report_page import Report, write_report
    from fastchat.llm_judge.running import say

    if not settings.judge_model:
        raise UsageError("Give --judge-model.")
    bench = settings.bench
    name = "+".join(file_name(judge) for judge in settings.judge_model)
    output = settings.output or bench.folder / "report" / f"{name}.html"
    if output.suffix != ".html":
        raise UsageError(f"--output {output}: give a name that ends in .html.")
    parts = {
        TITLES[kind].format(baseline=settings.baseline_model): _results(settings, kind)
        for kind in _kinds(settings)
    }
    report = Report(
        bench=bench,
        judges=settings.judge_model,
        baseline=settings.baseline_model,
        models=settings.model_list,
        parts=parts,
        has_answers=settings.answers,
    )
    for path in write_report(report, output):
        print(path)
    say(dict.fromkeys(note for shown in parts.values() for note in shown.notes))


def _kinds(settings: ReportSettings) -> list[Kind]:
    """The modes there are judgments of.

    Raises:
        UsageError: there are none.
    """
    wanted: list[Kind] = ["single", _pair_kind(settings)]
    if settings.mode != "all":
        wanted = [settings.mode]
    bench = settings.bench
    paths: dict[Kind, list[Path]] = {
        kind: [bench.judgment_file(judge, kind) for judge in settings.judge_model]
        for kind in wanted
    }
    found: list[Kind] = [kind for kind in wanted if all(path.exists() for path in paths[kind])]
    if not found:
        raise UsageError(
            f"{paths[wanted[0]][0]}: there are no judgments; make them with gen_judgment "
            f"--bench-name {settings.bench_name} --judge-model {settings.judge_model[0]}."
        )
    return found


def _pair_kind(settings: ReportSettings) -> Kind:
    """Whether the verdicts on pairs are all of one model against the others."""
    from fastchat.llm_judge.folders import read_pairs

    rows = [
        row
        for judge in settings.judge_model
        for row in read_pairs(settings.bench.judgment_file(judge, "pairwise-all")).rows
    ]
    is_baseline = rows and all(settings.baseline_model in (r.model_1, r.model_2) for r in rows)
    return "pairwise-baseline" if is_baseline else "pairwise-all"


def _results(settings: ReportSettings, kind: Kind) -> "Shown":
    """What `show_result` shows."""
    from fastchat.llm_judge.show_result import ResultSettings, results

    return results(
        ResultSettings(
            bench_name=settings.bench_name,
            data_dir=settings.data_dir,
            judge_model=tuple(settings.judge_model),
            baseline_model=settings.baseline_model,
            model_list=tuple(settings.model_list),
            mode=kind,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
