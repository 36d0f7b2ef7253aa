"""The tables -> what the static page shows, in the published form and beside it as safe HTML."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastchat.errors import DataError
from fastchat.eval.tables import Answer, Question, Review, read_table
from fastchat.eval.totals import PairTotal, review_text, total
from fastchat.llm_judge.safe_html import html_of

PUBLISHED_ORDER = ("alpaca", "llama", "gpt35", "bard")
"""Published: the other models of 2023, in the order of the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Everything the page is made from."""

    questions: tuple[Question, ...]
    answers: Mapping[str, Mapping[int, Answer]]
    """By the model's name in `answer_NAME.jsonl`, and question."""
    reviews: Mapping[str, tuple[Review, ...]]
    """By the other model's name."""
    ours: str
    """The model that stands on the right in every comparison."""


def read_tables(folder: Path) -> Tables:
    """Reads `question.jsonl`, `answer/answer_*.jsonl` and `review/review_*.jsonl`.

    Raises:
        DataError: a table is missing or wrong, or the reviews do not share one model.
    """
    questions = read_table(folder / "question.jsonl", Question)
    answers = {
        path.stem.removeprefix("answer_"): {r.question_id: r for r in read_table(path, Answer)}
        for path in sorted((folder / "answer").glob("answer_*.jsonl"))
    }
    files = sorted((folder / "review").glob("review_*.jsonl"))
    if len(answers) < 2 or not files:
        raise DataError(
            f"{folder}: the page needs answers of two models in answer/answer_MODEL.jsonl and "
            "their reviews in review/review_OTHER_OURS.jsonl; there are "
            f"{len(answers)} and {len(files)}. Make them with qa_baseline_gpt35 or model_qa, and "
            "eval_gpt_review."
        )
    model_of = models_by_answer(answers)
    found: dict[tuple[str, str], list[Review]] = {}
    for path in files:
        rows = read_table(path, Review)
        pair = total(rows, model_of)
        key, turned = (pair.first, pair.second), (pair.second, pair.first)
        # A table in the other order belongs to the one that was there first.
        found.setdefault(turned if turned in found else key, []).extend(rows)
    ours = {second for _, second in found}
    if len(ours) != 1:
        raise DataError(
            f"{folder}: every review must have the same model as Assistant 2, and there are "
            f"{', '.join(sorted(ours))}; make a page for each."
        )
    reviews = {first: tuple(rows) for (first, _), rows in found.items()}
    return Tables(questions=questions, answers=answers, reviews=reviews, ours=ours.pop())


def models_by_answer(answers: Mapping[str, Mapping[int, Answer]]) -> dict[str, str]:
    """The model of every answer, by answer_id."""
    return {row.answer_id: model for model, rows in answers.items() for row in rows.values()}


def page_data(tables: Tables) -> dict[str, Any]:
    """The published `data.json`, with names, totals and safe HTML beside its texts."""
    short = short_names([*tables.reviews, tables.ours])
    model_of = models_by_answer(tables.answers)
    others = _in_order(tables.reviews, short)
    return {
        "questions": [
            _question(question, tables, short, position=position)
            for position, question in _in_shown_order(tables.questions)
        ],
        "models": [short[name] for name in others],
        "ours": short[tables.ours],
        "names": {key: name for name, key in short.items()},
        "totals": [_total(total(tables.reviews[name], model_of), short) for name in others],
    }


def _question(
    question: Question, tables: Tables, short: Mapping[str, str], *, position: int
) -> dict[str, Any]:
    number = question.question_id
    answers = {
        short[name]: rows[number].text
        for name, rows in tables.answers.items()
        if name in short and number in rows
    }
    ours = tables.answers[tables.ours].get(number)
    said: dict[str, Review] = {}
    for name, rows in tables.reviews.items():
        for row in rows:
            # The page shows the review in which our model stands second.
            if row.question_id == number and ours and row.answer2_id == ours.answer_id:
                said[short[name]] = row
    evaluations = {key: _bold(review_text(row.text)) for key, row in said.items()}
    return {
        "id": position,
        "question_id": number,
        "category": question.category,
        "question": question.text,
        "answers": answers,
        "evaluations": evaluations,
        "scores": {key: list(row.score) for key, row in said.items()},
        "answers_html": {key: html_of(text) for key, text in answers.items()},
        "evaluations_html": {key: html_of(text) for key, text in evaluations.items()},
    }


def _bold(review: str) -> str:
    """Published: the names of the two assistants stand out."""
    return re.sub(r"(?<!\*)\bAssistant [12]\b(?!\*)", r"**\g<0>**", review)


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Published: names without their size (`vicuna` for vicuna-13b), where that leaves them apart.

    Source: the keys of the data file of 2023.
    """
    names = list(names)
    short = {name: re.sub(r"-\d+(?:\.\d+)?b\b", "", name, flags=re.IGNORECASE) for name in names}
    taken = list(short.values())
    return {name: key if taken.count(key) == 1 else name for name, key in short.items()}


def _in_order(names: Iterable[str], short: Mapping[str, str]) -> list[str]:
    """Published models in the published order, then the others by name."""
    known = {key: i for i, key in enumerate(PUBLISHED_ORDER)}
    return sorted(names, key=lambda name: (known.get(short[name], len(known)), name))


def _in_shown_order(questions: Sequence[Question]) -> list[tuple[int, Question]]:
    """Questions with their place on the page; eighty as published, others as they stand."""
    ids = {question.question_id for question in questions}
    if ids != set(range(1, 81)):
        return list(enumerate(questions, 1))
    return sorted(((place_of(q.question_id), q) for q in questions), key=lambda pair: pair[0])


def place_of(question_id: int) -> int:
    """Published: where each of the eighty questions stands: writing first, then roleplay.

    A small question, the 7th of what would be the order, is the first.
    """
    place = question_id + 60 if question_id <= 20 else question_id - 20
    place = place + 10 if place <= 50 else place - 50 if place <= 60 else place
    return 1 if place == 7 else place + 1 if place < 7 else place


def _total(pair: PairTotal, short: Mapping[str, str]) -> dict[str, Any]:
    return {
        "models": [short[pair.first], short[pair.second]],
        "totals": [pair.total_first, pair.total_second],
        "wins": [pair.first_wins, pair.second_wins],
        "ties": pair.ties,
        "unparsed": pair.n_unparsed,
    }
