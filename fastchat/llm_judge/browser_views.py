"""What the browser shows, as Markdown: a question, answers, and what judges said of them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from fastchat.errors import DataError
from fastchat.llm_judge.folders import Bench, model_name, read_pairs, read_single
from fastchat.llm_judge.records import Answer, PairJudgment, Question, SingleJudgment

Filter = Literal["all", "judge inconsistent", "models disagree"]

J = TypeVar("J", SingleJudgment, PairJudgment)

ABSENT = "N/A"
TITLE_LENGTH = 128
"""Published: characters of a question in the list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """Everything of one benchmark that there is; what is missing is simply not there."""

    questions: Mapping[int, Question]
    answers: Mapping[str, Mapping[int, Answer]]
    references: Mapping[int, Answer]
    single: Sequence[SingleJudgment]
    pairs: Sequence[PairJudgment]
    notes: tuple[str, ...] = ()

    @property
    def judges(self) -> list[str]:
        return sorted({row.judge[0] for row in (*self.single, *self.pairs)})

    @property
    def categories(self) -> list[str]:
        return list(dict.fromkeys(q.category for q in self.questions.values()))

    @property
    def models(self) -> list[str]:
        return sorted(self.answers)

    @property
    def n_turns(self) -> int:
        """Turns of the longest question."""
        return max(len(q.turns) for q in self.questions.values())


def load_shelf(bench: Bench) -> Shelf:
    """Reads all files of a benchmark.

    Raises:
        DataError: there are no questions.
    """
    questions = {q.question_id: q for q in bench.questions()}
    notes: list[str] = []
    answers: dict[str, dict[int, Answer]] = {}
    for model in bench.models():
        held = bench.answers(model)
        notes += held.report()
        answers[model] = {row.question_id: row for row in held.rows}
    folder = bench.folder / "model_judgment"
    single: list[SingleJudgment] = []
    pairs: list[PairJudgment] = []
    for path in sorted(folder.glob("*.jsonl")):
        if path.stem.endswith("_clean"):
            continue
        try:
            name = model_name(path)
            if name.endswith("_single"):
                single += (found := read_single(path)).rows
            elif name.endswith("_pair"):
                pairs += (found := read_pairs(path)).rows
            else:
                continue
            notes += found.report()
        except DataError as error:
            notes.append(error.message)
    references = {row.question_id: row for row in bench.references(None).rows}
    return Shelf(
        questions=questions,
        answers=answers,
        references=references,
        single=single,
        pairs=pairs,
        notes=tuple(notes),
    )


def titles(shelf: Shelf, category: str, kind: Filter = "all") -> list[tuple[str, int]]:
    """The questions to choose from, as (title, id)."""
    odd = _odd_questions(shelf, kind)
    return [
        (f"{q.question_id}: {q.turns[0][:TITLE_LENGTH]}", q.question_id)
        for q in shelf.questions.values()
        if category in ("all", q.category) and (odd is None or q.question_id in odd)
    ]


def _odd_questions(shelf: Shelf, kind: Filter) -> set[int] | None:
    """The questions a filter lets through; None for all."""
    if kind == "judge inconsistent":
        return {r.question_id for r in shelf.pairs if r.g1_winner != r.g2_winner}
    if kind == "models disagree":
        best: dict[int, list[float]] = {}
        for row in shelf.single:
            if row.is_parsed:
                best.setdefault(row.question_id, []).append(row.score)
        return {q for q, scores in best.items() if max(scores) - min(scores) >= 3}
    return None


def question_view(shelf: Shelf, question_id: int, turn: int) -> str:
    """What the user asked in a turn."""
    question = shelf.questions.get(question_id)
    if question is None or turn > len(question.turns):
        return ABSENT
    return tidy(question.turns[turn - 1])


def answer_view(shelf: Shelf, question_id: int, model: str, turn: int) -> str:
    """What a model answered in a turn."""
    answer = shelf.answers.get(model, {}).get(question_id)
    turns = answer.choices[0].turns if answer else ()
    return tidy(turns[turn - 1]) or "*(an empty answer)*" if len(turns) >= turn else ABSENT


def reference_view(shelf: Shelf, question_id: int, turn: int) -> str:
    """The reference solution of a turn; empty where there is none."""
    row = shelf.references.get(question_id)
    question = shelf.questions.get(question_id)
    turns = row.choices[0].turns if row else (question.reference or ()) if question else ()
    if len(turns) < turn or not turns[turn - 1]:
        return ""
    return f"**Reference solution**\n\n{tidy(turns[turn - 1])}"


def single_view(shelf: Shelf, question_id: int, model: str, judge: str) -> str:
    """The grades of an answer, turn by turn."""
    rows = [
        row
        for row in shelf.single
        if (row.question_id, row.model, row.judge[0]) == (question_id, model, judge)
    ]
    return _by_turn(rows, lambda r: f"**Grade: {_grade(r)}**\n\n{tidy(r.judgment)}")


def pair_view(shelf: Shelf, question_id: int, model_a: str, model_b: str, judge: str) -> str:
    """The two games of a pair, turn by turn, with the models named."""
    rows = [
        row
        for row in shelf.pairs
        if row.question_id == question_id
        and {row.model_1, row.model_2} == {model_a, model_b}
        and row.judge[0] == judge
    ]
    return _by_turn(rows, _games)


def _games(row: PairJudgment) -> str:
    names = {"model_1": row.model_1, "model_2": row.model_2, "error": "no verdict"}
    first, second = code(row.model_1), code(row.model_2)
    return (
        f"**Game 1** (A: {first}, B: {second}). "
        f"Winner: **{code(names.get(row.g1_winner, 'tie'))}**\n\n{tidy(row.g1_judgment)}\n\n"
        f"**Game 2** (A: {second}, B: {first}). "
        f"Winner: **{code(names.get(row.g2_winner, 'tie'))}**\n\n{tidy(row.g2_judgment)}"
    )


def _by_turn(rows: Iterable[J], text: Callable[[J], str]) -> str:
    parts = [
        f"#### Judgment of turn {row.turn}\n\n{text(row)}"
        for row in sorted(rows, key=lambda row: row.turn)
    ]
    return "\n\n".join(parts) or ABSENT


def _grade(row: SingleJudgment) -> str:
    if row.is_parsed:
        return f"{row.score:g}"
    return f"none ({(row.model_extra or {}).get('reason', 'not understood')})"


def code(name: str) -> str:
    """A name that Markdown leaves alone."""
    return f"`{name.replace('`', '')}`"


def tidy(text: str) -> str:
    """A model's text as Markdown: bullets are bullets, and a list begins after a blank line."""
    text = re.sub(r"^([ \t]*)[•◦▪] ?", r"\1* ", text, flags=re.MULTILINE)
    return re.sub(
        r"^(?![ \t]*(?:[*+-]|\d+\.) )(.*\S.*)\n(?=[ \t]*(?:[*+-]|\d+\.) )",
        r"\1\n\n",
        text,
        flags=re.MULTILINE,
    )
