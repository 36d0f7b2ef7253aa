import math

import numpy as np
import pytest

from fastchat.llm_judge.calibration import (
    PairScores,
    pair_scores,
    prediction_powered,
    rogan_gladen,
)
from fastchat.llm_judge.votes import Vote


def study(rng: np.random.Generator, *, error: float, n: int = 100, n_rest: int = 900):
    """A true rate of 0.6; the judge is wrong with probability `error`, and too kind by 0.1."""
    truth = rng.random(n + n_rest) < 0.6
    wrong = rng.random(n + n_rest) < np.where(truth, error, error + 0.1)
    judge = np.where(wrong, ~truth, truth).astype(float)
    return [
        PairScores(cluster=i, judge=judge[i], human=float(truth[i]) if i < n else None)
        for i in range(n + n_rest)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("error", [pytest.param(0.05, marks=pytest.mark.slow), 0.2, 0.45])
def test_the_estimate_is_unbiased_and_its_interval_covers(error: float) -> None:
    rng = np.random.default_rng(11)
    found = [prediction_powered(study(rng, error=error)) for _ in range(500)]
    mean = np.mean([f.value for f in found])
    spread = np.std([f.value for f in found]) / math.sqrt(500)
    assert abs(mean - 0.6) < 3 * spread + 0.002
    assert 0.93 <= np.mean([f.lower <= 0.6 <= f.upper for f in found]) <= 0.97


def test_a_good_judge_narrows_the_interval_and_a_useless_one_costs_nothing() -> None:
    rng = np.random.default_rng(5)
    width = {}
    for error in (0.02, 0.45):
        found = [prediction_powered(study(rng, error=error)) for _ in range(100)]
        width[error] = np.mean([f.upper - f.lower for f in found])
    alone = 2 * 1.984 * math.sqrt(0.24 / 100)
    assert width[0.02] < 0.6 * alone and width[0.45] < 1.03 * alone


def test_without_a_rest_or_people_it_is_what_there_is() -> None:
    both = [PairScores(cluster=i, judge=0.0, human=float(i % 2)) for i in range(10)]
    assert prediction_powered(both).value == 0.5
    nobody = [PairScores(cluster=i, judge=1.0) for i in range(10)]
    assert math.isnan(prediction_powered(nobody).value)


def test_a_rate_is_corrected_by_sensitivity_and_specificity() -> None:
    rng = np.random.default_rng(3)
    hits, values = 0, []
    for _ in range(400):

        def judged(truth: np.ndarray) -> np.ndarray:
            chance = np.where(truth, 0.9, 0.3)  # sensitivity 0.9, specificity 0.7
            return (rng.random(len(truth)) < chance).astype(float)

        rest = judged(rng.random(800) < 0.4)
        truth = rng.random(300) < 0.5
        found = rogan_gladen(list(rest), list(zip(truth.astype(float), judged(truth), strict=True)))
        values.append(found.value)
        hits += found.lower <= 0.4 <= found.upper
    assert np.mean(values) == pytest.approx(0.4, abs=0.01)
    assert 0.92 <= hits / 400 <= 0.98


def test_a_judge_no_better_than_chance_corrects_nothing() -> None:
    assert math.isnan(rogan_gladen([1.0, 0.0], [(1.0, 0.0), (0.0, 1.0)]).value)
    assert math.isnan(rogan_gladen([], [(1.0, 1.0)]).value)


def test_scores_of_a_model_come_from_votes_on_its_pairs() -> None:
    def vote(judge: str, winner: str, question: int = 1, a: str = "m", b: str = "n") -> Vote:
        given = {"question_id": question, "turn": 1, "model_a": a, "model_b": b}
        return Vote.model_validate({**given, "judge": judge, "winner": winner})

    votes = [
        *(vote("gpt4_pair", "model_b"), vote("expert_1", "model_a"), vote("expert_2", "tie")),
        *(vote("gpt4_pair", "tie", 2), vote("gpt4_pair", "model_a", 3, "n", "o")),
        vote("expert_1", "model_a", 4),
    ]
    found = pair_scores(votes, "m", judge="gpt4-pair", human="human")
    assert [(s.cluster, s.judge, s.human) for s in found] == [(1, 0.0, 0.75), (2, 0.5, None)]
