"""Judgments -> the scores of two models on the same items, and what had to be left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastchat.errors import DataError
from fastchat.llm_judge.folders import read_pairs, read_single
from fastchat.llm_judge.jury import majority, mean_of_grades
from fastchat.llm_judge.records import PairJudgment, SingleJudgment


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
    """Grades of `model` in `files` beside those of `other` in `other_files`.

    Raises:
        DataError: there is nothing that both were graded on.
    """
    held = [read_single(path) for path in files]
    also = [read_single(path) for path in other_files]
    notes = [line for found in [*held, *also] for line in found.report()]
    return paired_grades(
        [row for found in held for row in found.rows],
        [row for found in also for row in found.rows],
        (model, other),
        notes=notes,
    )


def paired_grades(
    rows: Sequence[SingleJudgment],
    other_rows: Sequence[SingleJudgment],
    models: tuple[str, str],
    *,
    notes: Sequence[str] = (),
) -> Pairing:
    """Grades of the first model in `rows` beside the second's in `other_rows`, question by turn.

    Raises:
        DataError: there is nothing that both were graded on.
    """
    told = list(notes)
    ours = _grades(rows, models[0], told)
    theirs = _grades(other_rows, models[1], told)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise DataError(
            f"{models[0]} has {len(ours)} grades and {models[1]} {len(theirs)}, and none is of the "
            "same question; judge both on the same ones."
        )
    if alone := len(ours.keys() ^ theirs.keys()):
        told.append(f"{alone} grades are left out: the other model has none for the same turn")
    return Pairing(
        first=tuple(ours[key] for key in shared),
        second=tuple(theirs[key] for key in shared),
        questions=tuple(question for question, _ in shared),
        notes=tuple(dict.fromkeys(told)),
    )


def pair_verdicts(files: Sequence[Path], model: str, other: str) -> Pairing:
    """Points of both models in the verdicts on their pair; of several files the majority's.

    Raises:
        DataError: the two were never compared.
    """
    held = [read_pairs(path) for path in files]
    notes = [line for found in held for line in found.report()]
    kept = [[r for r in found.rows if {r.model_1, r.model_2} == {model, other}] for found in held]
    rows = majority(kept) if len(kept) > 1 else kept[0]
    return paired_verdicts(rows, (model, other), notes=notes)


def paired_verdicts(
    rows: Sequence[PairJudgment], models: tuple[str, str], *, notes: Sequence[str] = ()
) -> Pairing:
    """Points of both models in the verdicts on their pair: 1, 0, or a half each for a tie.

    Raises:
        DataError: the two were never compared.
    """
    own = [row for row in rows if {row.model_1, row.model_2} == set(models)]
    parsed = [row for row in own if row.is_parsed]
    if not parsed:
        raise DataError(
            f"There is no verdict on {models[0]} and {models[1]}; make them with gen_judgment "
            "--mode pairwise-all."
        )
    told = list(notes)
    if len(parsed) < len(own):
        told.append(f"{len(own) - len(parsed)} comparisons without a verdict are left out")
    points = {"model_1": 1.0, "model_2": 0.0}
    first = [points.get(row.winner, 0.5) for row in parsed]
    pairs = zip(first, parsed, strict=True)
    first = [x if row.model_1 == models[0] else 1 - x for x, row in pairs]
    return Pairing(
        first=tuple(first),
        second=tuple(1 - x for x in first),
        questions=tuple(row.question_id for row in parsed),
        notes=tuple(told),
    )


def _grades(
    rows: Sequence[SingleJudgment], model: str, notes: list[str]
) -> dict[tuple[int, int], float]:
    """Grades of a model by question and turn; of several judges the mean."""
    own = mean_of_grades([[row for row in rows if row.model == model]])
    if not own:
        known = sorted({row.model for row in rows})
        raise DataError(
            f"There are no grades of {model}; there are those of {', '.join(known) or 'none'}."
        )
    if unparsed := sum(not row.is_parsed for row in own):
        notes.append(f"{model}: {unparsed} judgments without a grade are left out")
    return {(row.question_id, row.turn): row.score for row in own if row.is_parsed}
