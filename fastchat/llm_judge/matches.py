"""Which answers are judged, by which prompt: the published matches, from questions and answers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from fastchat.errors import DataError
from fastchat.llm_judge.prompts import JudgePrompt, prompt_name
from fastchat.llm_judge.records import Answer, Question

Mode = Literal["single", "pairwise-baseline", "pairwise-all"]
Answers = Mapping[str, Mapping[int, Answer]]
"""By model and question."""

SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One thing for a judge to decide."""

    question: Question
    turn: int
    answers: tuple[Answer, ...]
    """One to be graded, or two to be compared."""
    prompt: JudgePrompt
    reference: Answer | None = None

    @property
    def name(self) -> str:
        models = " and ".join(answer.model_id for answer in self.answers)
        return f"question {self.question.question_id} turn {self.turn}: {models}"

    @property
    def is_pair(self) -> bool:
        return len(self.answers) == 2

    def games(self) -> list[dict[str, str]]:
        """What fills the prompt's gaps in each request: one for a grade, two for a pair.

        Two answers are shown together in both orders; each alone to a prompt that grades.
        """
        if not self.is_pair:
            return [self._shown({"": self.answers[0]})]
        first, second = self.answers
        if self.prompt.type == "single":
            return [self._shown({"": first}), self._shown({"": second})]
        return [self._shown({"_a": first, "_b": second}), self._shown({"_a": second, "_b": first})]

    def _shown(self, answers: Mapping[str, Answer]) -> dict[str, str]:
        values = self._questions() | self._references()
        for letter, answer in answers.items():
            turns = answer.choices[0].turns
            if self.turn == 1:
                values[f"answer{letter}"] = turns[0]
            else:
                values |= {f"answer{letter}_{i}": text for i, text in enumerate(turns, 1)}
        return values

    def _questions(self) -> dict[str, str]:
        if self.turn == 1:
            return {"question": self.question.turns[0]}
        return {f"question_{i}": text for i, text in enumerate(self.question.turns, 1)}

    def _references(self) -> dict[str, str]:
        turns = self.reference.choices[0].turns if self.reference else ()
        return {f"ref_answer_{i}": text for i, text in enumerate(turns, 1)}


def pairs_of(mode: Mode, models: Sequence[str], baseline: str) -> list[tuple[str, ...]]:
    """Who is judged together: alone, with the baseline, or everyone with everyone."""
    if mode == "single":
        return [(model,) for model in models]
    if mode == "pairwise-baseline":
        return [(model, baseline) for model in models if model != baseline]
    return list(combinations(models, 2))


def make_matches(
    mode: Mode,
    questions: Sequence[Question],
    groups: Sequence[tuple[str, ...]],
    *,
    answers: Answers,
    references: Mapping[int, Answer],
    prompts: Mapping[str, JudgePrompt],
) -> list[Match]:
    """All matches, in the published order: turn 1, turn 1 with reference, then turn 2 alike.

    A question without exactly two turns is judged by its first alone. What has no answer or no
    reference is left out; `missing` says what that is.
    """
    made: list[Match] = []
    for turn in (1, 2):
        for is_reference in (False, True):
            for question in questions:
                if question.needs_reference != is_reference:
                    continue
                if turn == 2 and len(question.turns) != 2:
                    continue
                reference = references.get(question.question_id) if is_reference else None
                if is_reference and not has_reference(question, references):
                    continue
                name = prompt_name(mode, is_reference=is_reference, turn=turn)
                if name not in prompts:
                    raise DataError(f"The judge file has no prompt {name}; add it.")
                for group in groups:
                    given = [answers[model].get(question.question_id) for model in group]
                    whole = tuple(a for a in given if a and a.is_complete(question))
                    if len(whole) == len(group):
                        made.append(
                            Match(
                                question=question,
                                turn=turn,
                                answers=whole,
                                prompt=prompts[name],
                                reference=reference,
                            )
                        )
    return made


def has_reference(question: Question, references: Mapping[int, Answer]) -> bool:
    """Whether every turn that is judged has its reference."""
    reference = references.get(question.question_id)
    return bool(reference) and len(reference.choices[0].turns) >= min(2, len(question.turns))


def missing(
    questions: Sequence[Question], answers: Answers, references: Mapping[int, Answer]
) -> Iterator[str]:
    """What stands in the way of judging everything, one line for each model and for references."""
    for model, given in answers.items():
        lacking = [
            q.question_id
            for q in questions
            if not (a := given.get(q.question_id)) or not a.is_complete(q)
        ]
        if lacking:
            yield (
                f"{model} has no whole answer to {_listed(lacking)}; run gen_model_answer or "
                "gen_api_answer again, which asks for these alone"
            )
    bare = [
        q.question_id for q in questions if q.needs_reference and not has_reference(q, references)
    ]
    if bare:
        categories = sorted({q.category for q in questions if q.question_id in bare})
        yield (
            f"{', '.join(categories)} needs reference answers, and there is none for "
            f"{_listed(bare)}; add them to reference_answer/, as answers are"
        )


def _listed(ids: Iterable[int]) -> str:
    ids = list(ids)
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    word = "question" if len(ids) == 1 else "questions"
    return f"{len(ids)} {word}: {', '.join(map(str, ids[:SHOWN]))}{more}"
