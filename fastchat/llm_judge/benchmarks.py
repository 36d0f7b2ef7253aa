"""Lists the benchmarks there are, with who has answered and judged; checks all their files.

python3 -m fastchat.llm_judge.benchmarks --check
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastchat.errors import UsageError
from fastchat.llm_judge.extras import needing_extras
from fastchat.settings import run_command

if TYPE_CHECKING:
    from fastchat.llm_judge.folders import Bench
    from fastchat.llm_judge.lines import Rows
    from fastchat.llm_judge.records import Question

PROG = "python3 -m fastchat.llm_judge.benchmarks"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSettings:
    """Lists benchmarks, or checks every row of their files."""

    data_dir: Path = Path("data")
    """Where files are; what ships with the package is listed as well."""
    bench_name: str | None = None
    """Only this benchmark."""
    check: bool = False
    """Read every file, and say what is missing or cannot be used."""
    format: Literal["table", "md", "csv"] = "table"
    """How the table is printed."""
    debug: bool = False
    """Show tracebacks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when nothing is wrong."""
    return run_command(ListSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: ListSettings) -> int:
    from fastchat.llm_judge.running import say
    from fastchat.llm_judge.tables import Table

    benches = _benches(settings)
    if settings.check:
        told = [f"{bench.name}: {line}" for bench in benches for line in faults(bench)]
        say(told)
        names = ", ".join(bench.name for bench in benches)
        print(f"{names}: checked, {len(told)} things to mend")
        return 1 if told else 0
    columns = ("benchmark", "questions", "turns", "categories", "answers of", "judged by", "where")
    rows = tuple(_row(settings, bench) for bench in benches)
    print(Table(title="Benchmarks", columns=columns, rows=rows).text(settings.format))
    return 0


def _benches(settings: ListSettings) -> "list[Bench]":
    """The folders with questions, the package's among them.

    Raises:
        UsageError: there is none of that name.
    """
    from fastchat.llm_judge.folders import PACKAGED, Bench

    found = {
        path.parent.name
        for folder in (PACKAGED, settings.data_dir)
        for path in folder.glob("*/question.jsonl")
    }
    if settings.bench_name is not None:
        if settings.bench_name not in found:
            raise UsageError(
                f"--bench-name {settings.bench_name}: there are no such questions in "
                f"{settings.data_dir}; there are {', '.join(sorted(found))}."
            )
        found = {settings.bench_name}
    return [Bench(data_dir=settings.data_dir, name=name) for name in sorted(found)]


def _row(settings: ListSettings, bench: "Bench") -> tuple[object, ...]:
    questions = _questions(bench).rows
    turns = sorted({len(question.turns) for question in questions})
    is_own = bench.question_file.is_relative_to(settings.data_dir)
    judges = [path.stem for path, _ in _judgments(bench)]
    return (
        *(bench.name, len(questions), ", ".join(map(str, turns))),
        *(len({question.category for question in questions}), ", ".join(bench.models()) or "-"),
        *(", ".join(judges) or "-", "data folder" if is_own else "package"),
    )


def faults(bench: "Bench") -> Iterator[str]:
    """Everything about a benchmark's files that stands in the way of its use."""
    from fastchat.llm_judge.matches import missing

    held = _questions(bench)
    yield from _told(held)
    references = bench.references(None)
    answers = {model: bench.answers(model) for model in bench.models()}
    for rows in (references, *answers.values()):
        yield from _told(rows)
    by_question = {
        model: {answer.question_id: answer for answer in rows.rows}
        for model, rows in answers.items()
    }
    known = {row.question_id: row for row in references.rows}
    yield from missing(held.rows, by_question, known)
    for path, judged in _judgments(bench):
        yield from _told(judged)
        if unparsed := sum(not row.is_parsed for row in judged.rows):
            remedy = "gen_judgment --retry-unparsed asks again"
            yield f"{path.name}: {unparsed} judgments without a verdict; {remedy}"


def _told(rows: "Rows[Any]") -> list[str]:
    """What is wrong with a file, each row that cannot be read by its line and field."""
    return [*replace(rows, faults=()).report(), *rows.faults]


def _questions(bench: "Bench") -> "Rows[Question]":
    from fastchat.llm_judge.lines import read_rows
    from fastchat.llm_judge.records import Question

    return read_rows(bench.question_file, Question, lambda row: row.question_id)


def _judgments(bench: "Bench") -> "Iterator[tuple[Path, Rows[Any]]]":
    """The files of judgments, known by the ends of their names, and what they hold."""
    from fastchat.llm_judge.folders import read_pairs, read_single

    for path in sorted((bench.folder / "model_judgment").glob("*.jsonl")):
        if path.stem.endswith("_single"):
            yield path, read_single(path)
        elif path.stem.endswith("_pair"):
            yield path, read_pairs(path)


if __name__ == "__main__":
    sys.exit(main())
