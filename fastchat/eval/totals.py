"""Reviews -> scores: of one review, and the totals of a pair of models."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fastchat.errors import DataError
from fastchat.eval.tables import UNPARSED, Review
from fastchat.llm_judge.intervals import Estimate, bootstrapped_ratio


def parse_score(review: str) -> tuple[float, float]:
    """Published: the two numbers that are the first line; (-1, -1) where it is not that."""
    first = review.strip().split("\n", 1)[0]
    words = first.replace(",", " ").split()
    try:
        a, b = map(float, words)
    except ValueError:
        return UNPARSED
    return (a, b) if math.isfinite(a) and math.isfinite(b) else UNPARSED


def review_text(review: str) -> str:
    """A review without the scores that it begins with."""
    if parse_score(review) == UNPARSED:
        return review.strip()
    return review.strip().partition("\n")[2].strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTotal:
    """Two models compared over all questions; the scores' sums are the 2023 blog's Table 2."""

    first: str
    second: str
    total_first: float
    total_second: float
    first_wins: int
    second_wins: int
    ties: int
    n_unparsed: int
    """Reviews without scores; they count nowhere."""
    share: Estimate
    """The second model's total as a share of the first's, with questions drawn anew."""

    @property
    def n(self) -> int:
        return self.first_wins + self.second_wins + self.ties


def total(reviews: Iterable[Review], models: Mapping[str, str]) -> PairTotal:
    """The totals of one pair; reviews in the other order are turned round.

    models: the model of each answer, by answer_id. Where a question was reviewed in both orders
    both count, so scores are then summed over twice as many reviews.

    Raises:
        DataError: an answer that is in no table, or reviews of several pairs.
    """
    rows = [(_models_of(row, models), row) for row in reviews]
    if not rows:
        raise DataError("There are no reviews to add up.")
    first, second = rows[0][0]
    scores: list[tuple[float, float]] = []
    for pair, row in rows:
        if pair not in ((first, second), (second, first)):
            raise DataError(
                f"Review {row.review_id} compares {' and '.join(pair)}, those before it {first} "
                f"and {second}; put each pair into a file of its own."
            )
        if row.is_parsed:
            a, b = row.score
            scores.append((a, b) if pair == (first, second) else (b, a))
    parsed = [row for _, row in rows if row.is_parsed]
    ones, twos = [one for one, _ in scores], [two for _, two in scores]
    return PairTotal(
        first=first,
        second=second,
        total_first=math.fsum(ones),
        total_second=math.fsum(twos),
        first_wins=sum(x > y for x, y in scores),
        second_wins=sum(x < y for x, y in scores),
        ties=sum(x == y for x, y in scores),
        n_unparsed=len(rows) - len(parsed),
        share=bootstrapped_ratio(twos, ones, [row.question_id for row in parsed]),
    )


def _models_of(row: Review, models: Mapping[str, str]) -> tuple[str, str]:
    for answer in (row.answer1_id, row.answer2_id):
        if answer not in models:
            raise DataError(
                f"Review {row.review_id} is about answer {answer}, which none of the answer files "
                "holds; give the answers that were reviewed."
            )
    return models[row.answer1_id], models[row.answer2_id]
