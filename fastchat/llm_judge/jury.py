"""Several judges' rows -> one row each: the mean of grades, the majority of verdicts."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from fastchat.llm_judge.records import PairJudgment, SingleJudgment, Winner

JURY = "jury"


def mean_of_grades(judges: Sequence[Sequence[SingleJudgment]]) -> list[SingleJudgment]:
    """One grade for each answer and turn: the mean over the judges that gave one.

    Where none did, the row keeps its -1.
    """
    found: dict[tuple[object, ...], list[SingleJudgment]] = defaultdict(list)
    for rows in judges:
        for row in rows:
            found[row.question_id, row.model, row.turn].append(row)
    made: list[SingleJudgment] = []
    for rows in found.values():
        grades = [row.score for row in rows if row.is_parsed]
        score = sum(grades) / len(grades) if grades else -1.0
        made.append(rows[0].model_copy(update={"score": score, "judge": (JURY, rows[0].judge[1])}))
    return made


def majority(judges: Sequence[Sequence[PairJudgment]]) -> list[PairJudgment]:
    """One verdict for each pair and turn: that of more than half of the judges, else a tie.

    A judge that contradicts itself when the order is swapped says tie.
    """
    found: dict[tuple[object, ...], list[PairJudgment]] = defaultdict(list)
    for rows in judges:
        for row in map(in_order, rows):
            found[row.question_id, row.model_1, row.model_2, row.turn].append(row)
    made: list[PairJudgment] = []
    for rows in found.values():
        votes = Counter[Winner](row.winner for row in rows if row.is_parsed)
        winner = _majority(votes)
        said: dict[str, object] = {
            "g1_winner": winner,
            "g2_winner": winner,
            "judge": (JURY, rows[0].judge[1]),
        }
        made.append(rows[0].model_copy(update=said))
    return made


def _majority(votes: Counter[Winner]) -> Winner:
    """What more than half say."""
    if not votes:
        return "error"
    first, count = votes.most_common(1)[0]
    return first if 2 * count > votes.total() else "tie"


def in_order(row: PairJudgment) -> PairJudgment:
    """The row with its models in the order of their names."""
    if row.model_1 <= row.model_2:
        return row
    swapped: dict[Winner, Winner] = {"model_1": "model_2", "model_2": "model_1"}
    return row.model_copy(
        update={
            "model_1": row.model_2,
            "model_2": row.model_1,
            "g1_winner": swapped.get(row.g1_winner, row.g1_winner),
            "g2_winner": swapped.get(row.g2_winner, row.g2_winner),
        }
    )
