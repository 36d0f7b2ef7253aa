"""Compares two models, or two runs of one, question by question, and says whether it is chance.

python3 -m fastchat.llm_judge.compare --models base tuned --judge-model gpt-4
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastchat.errors import DataError, UsageError
from fastchat.llm_judge.bench_settings import BenchSettings
from fastchat.llm_judge.extras import needing_extras
from fastchat.settings import WordList, run_command

if TYPE_CHECKING:
    from fastchat.llm_judge.paired import Pairing

PROG = "python3 -m fastchat.llm_judge.compare"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSettings(BenchSettings):
    """Compares two models on the questions that both were judged on."""

    models: WordList = ()
    """Must be given: two models; the same one twice, with two input files, are two runs of it."""
    judge_model: WordList = ("gpt-4",)
    """Judge whose verdicts count; several, with blanks between, are a jury."""
    mode: Literal["single", "pairwise"] = "single"
    """By grades, or by verdicts on the pair."""
    input_file: WordList = ()
    """Judgment file of both models, or one file for each; by default the judge's own."""
    rounds: int = 10_000
    """How often questions are drawn anew."""
    seed: int = 0
    """Of these draws."""
    format: Literal["table", "md", "csv"] = "table"
    """How tables are printed."""
    json: Path | None = None
    """File for the results as JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when there was something to compare, whatever came out."""
    return run_command(CompareSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: CompareSettings) -> None:
    from fastchat.llm_judge.compared import compare_models
    from fastchat.llm_judge.running import say
    from fastchat.llm_judge.tables import write_json

    _check(settings)
    first, second = settings.models
    pairing = _pairing(settings)
    found = compare_models(
        pairing,
        (first, second),
        _categories(settings),
        rounds=settings.rounds,
        seed=settings.seed,
    )
    print(found.table().text(settings.format))
    print(found.sentence())
    say(pairing.notes)
    if settings.json:
        head = {"models": settings.models, "mode": settings.mode, "judges": settings.judge_model}
        write_json(settings.json, {**head, "results": found.plain(), "notes": pairing.notes})


def _check(settings: CompareSettings) -> None:
    if len(settings.models) != 2:
        raise UsageError("Give two models: --models A B.")
    if len(set(settings.models)) == 1 and (len(settings.input_file) != 2):
        raise UsageError(
            f"--models names {settings.models[0]} twice; give a file for each run: --input-file "
            "OLD.jsonl NEW.jsonl."
        )
    if len(settings.input_file) > 2 or (settings.mode == "pairwise" and settings.input_file[1:]):
        raise UsageError("--input-file: give one file, or one for each model (mode single).")
    if settings.rounds < 100:
        raise UsageError(f"--rounds {settings.rounds}: give 100 or more.")


def _pairing(settings: CompareSettings) -> "Pairing":
    """The scores of both models on what both were judged on."""
    from fastchat.llm_judge.paired import pair_grades, pair_verdicts

    first, second = settings.models
    if settings.mode == "pairwise":
        return pair_verdicts(_files(settings), first, second)
    files = _files(settings)
    if len(settings.input_file) == 2:
        return pair_grades(files[:1], files[1:], first, second)
    return pair_grades(files, files, first, second)


def _files(settings: CompareSettings) -> list[Path]:
    mode = "single" if settings.mode == "single" else "pairwise-all"
    bench = settings.bench
    paths = [Path(name) for name in settings.input_file] or [
        bench.judgment_file(judge, mode) for judge in settings.judge_model
    ]
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: there are no judgments; make them with gen_judgment.")
    return paths


def _categories(settings: CompareSettings) -> dict[int, str]:
    """Categories by question; none when the questions are not at hand."""
    try:
        return {q.question_id: q.category for q in settings.bench.questions()}
    except DataError:
        return {}


if __name__ == "__main__":
    sys.exit(main())
