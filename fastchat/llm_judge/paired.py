"""Judgment files -> the scores of two models on the same items, and what had to be left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastchat.errors import DataError
from fastchat.llm_judge.folders import read_pairs, read_single
from fastchat.llm_judge.jury import majority, mean_of_grades
from fastchat.llm_judge.records import SingleJudgment


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Scores of the same items, side by side."""

    first: tuple[float, ...]
    second: tuple[float, ...]
    questions: tuple[int, ...]
    """What each item is about."""
    notes: tuple[str, ...]


def pair_grades(
    files: Sequence[Path], other_files: Sequence[Path], model: str, other: str
) -> Pairing:
    """Grades of `model` in `files` beside those of `other` in `other_files`, by question and turn.

    Raises:
        DataError: there is nothing that both were graded on.
    """
    notes: list[str] = []
    ours = _grades(files, model, notes)
    theirs = _grades(other_files, other, notes)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise DataError(
            f"{model} has {len(ours)} grades and {other} {len(theirs)}, and none is of the same "
            "question; judge both on the same ones."
        )
    alone = len(ours.keys() ^ theirs.keys())
    if alone:
        notes.append(f"{alone} grades are left out: the other model has none for the same turn")
    return Pairing(
        first=tuple(ours[key] for key in shared),
        second=tuple(theirs[key] for key in shared),
        questions=tuple(question for question, _ in shared),
        notes=tuple(dict.fromkeys(notes)),
    )


def pair_verdicts(files: Sequence[Path], model: str, other: str) -> Pairing:
    """Points of both models in the verdicts on their pair: 1, 0, or a half each for a tie.

    Raises:
        DataError: the two were never compared.
    """
    held = [read_pairs(path) for path in files]
    notes = [line for found in held for line in found.report()]
    kept = [[r for r in found.rows if {r.model_1, r.model_2} == {model, other}] for found in held]
    rows = majority(kept) if len(kept) > 1 else kept[0]
    parsed = [row for row in rows if row.is_parsed]
    if not parsed:
        raise DataError(
            f"There is no verdict on {model} and {other}; make them with gen_judgment --mode "
            "pairwise-all."
        )
    if len(parsed) < len(rows):
        notes.append(f"{len(rows) - len(parsed)} comparisons without a verdict are left out")
    points = {"model_1": 1.0, "model_2": 0.0}
    first = [points.get(row.winner, 0.5) for row in parsed]
    first = [x if row.model_1 == model else 1 - x for x, row in zip(first, parsed, strict=True)]
    return Pairing(
        first=tuple(first),
        second=tuple(1 - x for x in first),
        questions=tuple(row.question_id for row in parsed),
        notes=tuple(notes),
    )


def _grades(files: Sequence[Path], model: str, notes: list[str]) -> dict[tuple[int, int], float]:
    """Grades by question and turn; of several judges the mean."""
    held = [read_single(path) for path in files]
    notes += [line for found in held for line in found.report()]
    kept = [[row for row in found.rows if row.model == model] for found in held]
    if not any(kept):
        known = sorted({row.model for found in held for row in found.rows})
        raise DataError(
            f"There are no grades of {model}; the files have those of {', '.join(known) or 'none'}."
        )
    rows: Sequence[SingleJudgment] = mean_of_grades(kept) if len(kept) > 1 else kept[0]
    unparsed = sum(not row.is_parsed for row in rows)
    if unparsed:
        notes.append(f"{model}: {unparsed} judgments without a grade are left out")
    return {(row.question_id, row.turn): row.score for row in rows if row.is_parsed}
