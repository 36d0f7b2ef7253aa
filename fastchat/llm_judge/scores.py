"""Judgments -> tables of grades and of wins, by the published formulas, with intervals."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fastchat.llm_judge.intervals import Estimate, clustered_mean
from fastchat.llm_judge.records import PairJudgment, SingleJudgment


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A model's mean grade."""

    model: str
    estimate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Wins:
    """How a model did against others; rates are of all its judged pairs."""

    model: str
    win: int
    loss: int
    tie: int
    adjusted: Estimate
    """Win rate with ties as half a win."""

    @property
    def total(self) -> int:
        return self.win + self.loss + self.tie

    @property
    def win_rate(self) -> float:
        return self.win / self.total

    @property
    def loss_rate(self) -> float:
        return self.loss / self.total


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionBias:
    """What a judge does when the same two answers are shown in the other order."""

    n_pairs: int
    """Pairs with a verdict in both orders."""
    consistent: int
    """The same answer twice, or a tie twice."""
    first: int
    """Whichever was shown first won, both times."""
    second: int
    """Whichever was shown second won, both times."""
    half: int
    """A tie in one order alone."""

    @property
    def rate(self) -> float:
        """Share of pairs whose verdict depends on the order."""
        return 1 - self.consistent / self.n_pairs if self.n_pairs else float("nan")


def mean_scores(rows: Iterable[SingleJudgment], turn: int | None = None) -> list[Score]:
    """Mean grade of each model, best first; over all rows where no turn is given.

    Published: rows without a grade are left out; the average is over all rows that are left,
    which is not the mean of the turns' means when one of them lacks a grade.
    """
    grades: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for row in rows:
        if row.is_parsed and turn in (None, row.turn):
            grades[row.model].append((row.score, row.question_id))
    scores = [
        Score(model=model, estimate=clustered_mean(*zip(*pairs, strict=True)))
        for model, pairs in grades.items()
    ]
    return sorted(scores, key=lambda score: (-score.estimate.value, score.model))


def category_scores(
    rows: Iterable[SingleJudgment], category_of: Mapping[int, str]
) -> dict[str, dict[str, Estimate]]:
    """Mean grade by model and category; questions of no known category are left out."""
    groups: dict[str, list[SingleJudgment]] = defaultdict(list)
    for row in rows:
        if row.question_id in category_of:
            groups[category_of[row.question_id]].append(row)
    found: dict[str, dict[str, Estimate]] = defaultdict(dict)
    for category, held in groups.items():
        for score in mean_scores(held):
            found[score.model][category] = score.estimate
    return dict(found)


def win_table(rows: Iterable[PairJudgment], baseline: str | None = None) -> list[Wins]:
    """Wins, losses and ties of each model, best first.

    Published: rows without a verdict in either order are left out; with a baseline only rows
    that hold it count, and it has no line itself; a win needs both orders.
    """
    results: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for row in rows:
        if not row.is_parsed or (baseline and baseline not in (row.model_1, row.model_2)):
            continue
        first = {"model_1": 1.0, "model_2": 0.0}.get(row.winner, 0.5)
        results[row.model_1].append((first, row.question_id))
        results[row.model_2].append((1.0 - first, row.question_id))
    results.pop(baseline or "", None)
    table = [_wins(model, found) for model, found in results.items()]
    return sorted(table, key=lambda wins: (-wins.adjusted.value, wins.model))


def _wins(model: str, found: Sequence[tuple[float, int]]) -> Wins:
    values, questions = zip(*found, strict=True)
    return Wins(
        model=model,
        win=values.count(1.0),
        loss=values.count(0.0),
        tie=values.count(0.5),
        adjusted=clustered_mean(values, questions),
    )


def position_bias(rows: Iterable[PairJudgment]) -> PositionBias:
    """How often the order decided. In game 1 model_1 was first, in game 2 model_2."""
    games = [(row.g1_winner, row.g2_winner) for row in rows if row.is_parsed]
    first = games.count(("model_1", "model_2"))
    second = games.count(("model_2", "model_1"))
    consistent = sum(one == two for one, two in games)
    return PositionBias(
        n_pairs=len(games),
        consistent=consistent,
        first=first,
        second=second,
        half=len(games) - consistent - first - second,
    )
