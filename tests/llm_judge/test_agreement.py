import json
import math
from pathlib import Path

import pytest

from fastchat.errors import DataError
from fastchat.llm_judge import compute_agreement
from fastchat.llm_judge.agreement import (
    agreement,
    cohen_kappa,
    comparisons,
    krippendorff_alpha,
)
from fastchat.llm_judge.votes import Vote, read_votes


def vote(winner: str, judge: str = "expert_1", a: str = "m", b: str = "n", **more) -> Vote:
    given = {"question_id": 1, "turn": 1, "model_a": a, "model_b": b}
    return Vote.model_validate({**given, "winner": winner, "judge": judge, **more})


@pytest.mark.parametrize("second", ["gpt4-pair", "human"])
def test_the_published_table_from_the_real_votes(shared: Path, second: str) -> None:
    folder = shared / "data" / "mt_bench_human"
    table = json.loads((shared / "data/reference/mt_bench_agreement.json").read_text())["computed"]
    votes, notes = read_votes([folder / "gpt4_pair.jsonl", folder / "human.jsonl"])
    assert notes == [] and len(votes) == 2400 + 3355
    for turn in (1, 2):
        held = comparisons(votes, (second, "human"), turn)
        for with_ties, name in ((True, "with_tie"), (False, "without_tie")):
            found = agreement(held, turn=turn, with_ties=with_ties, is_same=second == "human")
            expected = table[f"{second}_vs_human.turn{turn}.{name}"]
            assert (found.agree, found.total) == (expected["agree"], expected["total"])
            assert found.ratio.value == pytest.approx(expected["ratio"], abs=1e-6)
            assert found.ratio.lower < found.ratio.value < found.ratio.upper


def test_the_command_prints_and_writes_the_same(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "data" / "mt_bench_human"
    files = ["--votefiles", str(folder / "gpt4_pair.jsonl"), "human.jsonl"]
    words = [*files, "--data-dir", str(folder), "--judges", "gpt4-pair", "human"]
    out = tmp_path / "r.json"
    assert compute_agreement.main([*words, "--json", str(out), "--win-rates"]) == 0
    printed = capsys.readouterr().out
    assert "turn 1 with tie: gpt4-pair-human total 1343, agree 886, ratio 0.66" in printed
    assert "turn 2 without tie: gpt4-pair-human total 864, agree 731, ratio 0.85" in printed
    value = json.loads(out.read_text())
    assert value["turns"][0]["without_tie"]["agree"] == 727
    rates = value["win_rates"]["gpt-4"]
    assert rates["prediction_powered"]["lower"] < rates["prediction_powered"]["upper"]
    assert compute_agreement.main([*words, "--judges", "x", "human"]) == 2


def test_votes_are_compared_by_the_models_whatever_their_order() -> None:
    votes = [vote("model_a"), vote("model_b", "gpt4_pair", "n", "m")]
    (one,) = comparisons(votes, ("gpt4-pair", "human"), 1)
    assert one.agrees and one.labels == ("model_a", "model_a")


def test_every_kind_of_tie_is_one_and_unclear_votes_count_nowhere() -> None:
    votes = [vote("tie (inconsistent)", "gpt4_pair"), vote("tie"), vote("error", "expert_2")]
    (one,) = comparisons(votes, ("gpt4-pair", "human"), 1)
    assert one.agrees and one.has_tie
    found = agreement([one], turn=1, with_ties=False, is_same=False)
    assert found.total == 0 and math.isnan(found.ratio.value)


def test_people_are_compared_with_each_other_and_authors_are_not_people() -> None:
    votes = [vote("model_a", f"expert_{i}") for i in range(4)] + [vote("model_b", "author_0")]
    assert len(comparisons(votes, ("human", "human"), 1)) == 6
    assert len(comparisons(votes, ("author", "human"), 1)) == 4


def test_kappa_of_cohens_textbook_table() -> None:
    # 20 both yes, 5 and 10 apart, 15 both no: observed 0.7, expected 0.5, kappa 0.4.
    labels = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(labels) == pytest.approx(0.4)
    assert math.isnan(cohen_kappa([])) and math.isnan(cohen_kappa([("y", "y")]))


def test_alpha_of_krippendorffs_example_with_missing_votes() -> None:
    # Krippendorff 2011, section C: nominal data of four observers, alpha 0.743.
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[str(o[i]) for o in observers if o[i] is not None] for i in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert math.isnan(krippendorff_alpha([["a"], ["b"]]))


def test_lists_lines_and_judgment_files_are_votes(tmp_path: Path) -> None:
    plain = vote("model_a").model_dump()
    (tmp_path / "list.json").write_text(json.dumps([plain, {"no": "vote"}]))
    (tmp_path / "lines.jsonl").write_text(json.dumps(plain) + "\n")
    row = {
        **{"question_id": 1, "model_1": "n", "model_2": "m", "turn": 1},
        **{"g1_winner": "model_1", "g2_winner": "model_1", "judge": ["local", "pair-v2"]},
    }
    (tmp_path / "j_pair.jsonl").write_text(json.dumps(row) + "\n")
    votes, notes = read_votes(sorted(tmp_path.iterdir()))
    assert notes == ["list.json: 1 rows are no votes and were left out"]
    assert [(v.judge_name, v.label) for v in votes] == [
        *(("local", "model_b"), ("human", "model_a"), ("human", "model_a"))
    ]


@pytest.mark.parametrize(("text", "said"), [("{", "neither"), ("[1]", "no vote"), ("", "no vote")])
def test_a_file_without_votes_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_votes([path])
    with pytest.raises(DataError, match="cannot be read"):
        read_votes([tmp_path / "none.json"])
