import json
from pathlib import Path

import pytest

from fastchat.errors import DataError
from fastchat.eval import review_totals
from fastchat.eval.page_data import models_by_answer, read_tables
from fastchat.eval.tables import UNPARSED, Review, read_table
from fastchat.eval.totals import parse_score, review_text, total


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("9 8.5\nBoth did well.", (9.0, 8.5)),
        ("  7, 8\nx", (7.0, 8.0)),
        ("7,8", (7.0, 8.0)),
        ("Scores: 7 8", UNPARSED),
        ("7 8 9", UNPARSED),
        ("7", UNPARSED),
        ("nan 3", UNPARSED),
        ("inf 3", UNPARSED),
        ("First, I solve it.\n10 4", UNPARSED),
        ("", UNPARSED),
    ],
)
def test_the_first_line_holds_exactly_two_numbers(text: str, score: tuple[float, float]) -> None:
    assert parse_score(text) == score


def test_only_a_line_of_scores_is_left_out() -> None:
    assert review_text("9 8\n\nGood.\nBad.") == "Good.\nBad."
    assert review_text("First, I solve it.\n10 4") == "First, I solve it.\n10 4"


def test_the_eight_totals_of_the_blogs_table_2(shared: Path) -> None:
    tables = read_tables(shared / "data/vicuna_eval_2023")
    expected = json.loads((shared / "data/reference/vicuna_eval_2023.json").read_text())
    models = models_by_answer(tables.answers)
    found = {name: total(rows, models) for name, rows in tables.reviews.items()}
    assert found.keys() == expected["published_table_2"].keys()
    for name, pair in found.items():
        assert (pair.first, pair.second) == (name, "vicuna-13b")
        assert [pair.total_first, pair.total_second] == expected["published_table_2"][name]
        counted = expected["computed"][name]
        assert pair.first_wins == counted["baseline_wins"] and pair.ties == counted["ties"]
        assert pair.second_wins == counted["vicuna_wins"] and pair.n_unparsed == 0
        assert pair.share.lower < pair.share.value < pair.share.upper


def test_the_reviews_of_2023_have_the_scores_that_we_read_in_them(shared: Path) -> None:
    expected = json.loads((shared / "data/reference/vicuna_eval_2023.json").read_text())
    for path in (shared / "data/vicuna_eval_2023/review").iterdir():
        rows = read_table(path, Review)
        by_hand = [row for row in rows if parse_score(row.text) == UNPARSED]
        name = path.stem.split("_")[1]
        assert len(by_hand) == expected["computed"][name]["first_line_not_reparsable"]
        assert all(parse_score(r.text) == r.score for r in rows if r not in by_hand)


def test_reviews_without_scores_count_nowhere_and_the_other_order_is_turned(tables: Path) -> None:
    read = read_tables(tables)
    models = models_by_answer(read.answers)
    pair = total(read.reviews["other"], models)
    assert (pair.total_first, pair.total_second, pair.n_unparsed) == (16.0, 15.0, 1)
    assert (pair.first_wins, pair.ties, pair.second_wins) == (1, 1, 0)
    first = read.reviews["old-7b"][0]
    turned = first.model_copy(
        update={"answer1_id": first.answer2_id, "answer2_id": first.answer1_id, "score": (8.0, 3.0)}
    )
    both = total([*read.reviews["old-7b"], turned], models)
    assert (both.total_first, both.total_second, both.n) == (17.0, 24.5, 4)


def test_reviews_of_unknown_answers_or_two_pairs_are_refused(tables: Path) -> None:
    read = read_tables(tables)
    models = models_by_answer(read.answers)
    with pytest.raises(DataError, match="none of the answer files"):
        total(read.reviews["other"], {})
    with pytest.raises(DataError, match="file of its own"):
        total([*read.reviews["other"], *read.reviews["old-7b"]], models)
    with pytest.raises(DataError, match="no reviews"):
        total([], models)


def test_the_command_prints_and_writes_the_totals(
    tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert review_totals.main(["--input", str(tables), "--json", "t.json"]) == 0
    out = capsys.readouterr()
    assert "old-7b" in out.out and "1 reviews have no scores" in out.err
    value = json.loads(Path("t.json").read_text())
    assert value["old-7b"]["totals"] == [14, 16.5] and value["other"]["unparsed"] == 1
