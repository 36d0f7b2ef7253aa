import math
from typing import Any

import numpy as np
import pytest

from fastchat.llm_judge.intervals import bootstrapped_ratio, clustered_mean
from fastchat.llm_judge.jury import majority, mean_of_grades
from fastchat.llm_judge.ratings import rate
from fastchat.llm_judge.records import PairJudgment, SingleJudgment
from fastchat.llm_judge.scores import category_scores, mean_scores, position_bias, win_table


def grade(model: str, question: int, turn: int, score: float, **more: Any) -> SingleJudgment:
    given = {"question_id": question, "model": model, "judge": ["j", "p"], "turn": turn}
    return SingleJudgment.model_validate({**given, "score": score, **more})


def pair(one: str, two: str, g1: str, g2: str, *, question: int = 1, turn: int = 1) -> PairJudgment:
    return PairJudgment.model_validate(
        {
            **{"question_id": question, "turn": turn, "judge": ["j", "p"]},
            **{"model_1": one, "model_2": two, "g1_winner": g1, "g2_winner": g2},
        }
    )


def test_the_average_is_over_all_grades_not_over_the_turns_means() -> None:
    rows = [
        *(grade("m", 1, 1, 8), grade("m", 2, 1, 6), grade("m", 1, 2, 3), grade("m", 2, 2, -1)),
        *(grade("n", 1, 1, 9.5), grade("n", 2, 1, 9)),
    ]
    assert [(s.model, s.estimate.value) for s in mean_scores(rows, 1)] == [("n", 9.25), ("m", 7.0)]
    assert [(s.model, s.estimate.value) for s in mean_scores(rows, 2)] == [("m", 3.0)]
    assert mean_scores(rows)[1].estimate.value == pytest.approx((8 + 6 + 3) / 3, abs=1e-12)


def test_categories_have_their_own_means() -> None:
    rows = [grade("m", 1, 1, 8), grade("m", 2, 1, 6), grade("m", 3, 1, 1)]
    found = category_scores(rows, {1: "a", 2: "a", 3: "b"})
    assert {name: e.value for name, e in found["m"].items()} == {"a": 7.0, "b": 1.0}


PAIRS = [
    pair("m", "base", "model_1", "model_1"),
    pair("m", "base", "model_1", "model_2", question=2),
    pair("m", "base", "tie", "model_1", question=3),
    pair("m", "base", "model_2", "model_2", question=4),
    pair("m", "base", "error", "model_2", question=5),
    pair("n", "m", "model_1", "model_1", question=1),
]


def test_wins_with_a_baseline_by_the_published_formulas() -> None:
    (row,) = win_table(PAIRS, "base")
    assert (row.model, row.win, row.loss, row.tie) == ("m", 1, 1, 2)
    assert (row.win_rate, row.loss_rate, row.adjusted.value) == (0.25, 0.25, 0.5)


def test_wins_of_all_against_all() -> None:
    rows = {w.model: (w.win, w.loss, w.tie) for w in win_table(PAIRS)}
    assert rows == {"m": (1, 2, 2), "base": (1, 1, 2), "n": (1, 0, 0)}
    assert [w.model for w in win_table(PAIRS)] == ["n", "base", "m"]


def test_position_bias_counts_what_the_order_decided() -> None:
    bias = position_bias(PAIRS)
    assert (bias.n_pairs, bias.consistent, bias.first, bias.second, bias.half) == (5, 3, 1, 0, 1)
    assert bias.rate == pytest.approx(0.4)
    assert math.isnan(position_bias([]).rate)


def test_a_jury_takes_means_and_majorities_of_those_who_spoke() -> None:
    grades = mean_of_grades([[grade("m", 1, 1, 8)], [grade("m", 1, 1, -1)], [grade("m", 1, 1, 5)]])
    assert [row.score for row in grades] == [6.5]
    assert mean_of_grades([[grade("m", 1, 1, -1)]])[0].score == -1
    one = [pair("m", "n", "model_1", "model_1")]
    swapped = [pair("n", "m", "model_2", "model_2")]
    other = [pair("m", "n", "model_2", "model_2")]
    silent = [pair("m", "n", "error", "tie")]
    assert [row.winner for row in majority([one, swapped, other])] == ["model_1"]
    assert [row.winner for row in majority([one, other])] == ["tie"]
    assert [row.winner for row in majority([one, silent])] == ["model_1"]
    assert [row.winner for row in majority([silent])] == ["error"]


def test_an_interval_of_single_values_is_students() -> None:
    from scipy import stats

    values = [3.0, 5.0, 6.0, 9.0, 4.0]
    found = clustered_mean(values, range(5))
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.lower, found.upper) == pytest.approx((low, high))
    assert clustered_mean([], []).n == 0
    assert math.isinf(clustered_mean([1.0, 2.0], ["q", "q"]).upper)


def test_clustered_intervals_cover_the_truth_where_single_ones_do_not() -> None:
    rng = np.random.default_rng(7)
    hits = naive = 0
    for _ in range(400):
        difficulty = rng.normal(0, 1, 40)
        scores = (difficulty[:, None] + rng.normal(0, 0.5, (40, 4))).ravel()
        questions = np.repeat(np.arange(40), 4)
        found = clustered_mean(list(scores), list(questions))
        hits += found.lower <= 0 <= found.upper
        single = clustered_mean(list(scores), range(160))
        naive += single.lower <= 0 <= single.upper
    assert 0.92 <= hits / 400 <= 0.98
    assert naive / 400 < 0.85


def test_a_ratio_is_bootstrapped_by_cluster_and_by_seed() -> None:
    rng = np.random.default_rng(1)
    agree = rng.integers(0, 2, 300).astype(float)
    found = bootstrapped_ratio(list(agree), [1.0] * 300, list(range(300)), seed=3)
    assert found.value == agree.mean()
    normal = 1.96 * math.sqrt(found.value * (1 - found.value) / 300)
    assert found.upper - found.value == pytest.approx(normal, rel=0.15)
    assert found == bootstrapped_ratio(list(agree), [1.0] * 300, list(range(300)), seed=3)
    assert math.isnan(bootstrapped_ratio([], [], []).value)


def test_ratings_are_the_odds_of_two_models_and_bounded_by_their_intervals() -> None:
    rows = [pair("m", "n", "model_1", "model_1", question=q) for q in range(30)]
    rows += [pair("n", "m", "model_1", "model_1", question=q) for q in range(30, 40)]
    rows.append(pair("m", "n", "error", "tie", question=99))
    table = rate(rows)
    better, worse = table.ratings
    assert better.model == "m" and better.rating + worse.rating == pytest.approx(2000)
    assert better.rating - worse.rating == pytest.approx(400 * math.log10(3), abs=1e-6)
    assert better.lower < better.rating < better.upper and table.notes == ()
    assert rate([]).ratings == ()


def test_a_model_that_never_lost_is_rated_with_a_note() -> None:
    rows = [pair("m", "n", "model_1", "model_1", question=q) for q in range(5)]
    table = rate(rows)
    assert all(math.isfinite(r.rating) for r in table.ratings)
    assert any("never lost" in note for note in table.notes)
