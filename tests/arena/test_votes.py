import numpy as np
import polars as pl
import pytest
from voting import votes_of

from fastchat.arena.votes import votes_from_frame, votes_from_rows
from fastchat.errors import DataError

ROWS = {
    "model_a": ["x", "y", "z"],
    "model_b": ["y", "x", "x"],
    "winner": ["model_a", "tie (bothbad)", "model_b"],
}


def test_rows_and_frames_become_the_same_codes() -> None:
    from_rows = votes_from_rows(ROWS["model_a"], ROWS["model_b"], ROWS["winner"])
    from_frame = votes_from_frame(pl.DataFrame(ROWS))
    for votes in (from_rows, from_frame):
        assert votes.models == ("x", "y", "z")
        assert votes.a.tolist() == [0, 1, 2]
        assert votes.b.tolist() == [1, 0, 0]
        assert votes.score.tolist() == [1.0, 0.5, 0.0]
        assert votes.a.dtype == np.int32


def test_an_unknown_label_is_told_with_its_count_and_never_a_tie() -> None:
    rows = ROWS | {"winner": ["model_a", "draw", "draw"]}
    for make in (lambda: votes_from_rows(*rows.values()), lambda: votes_from_frame(frame(rows))):
        with pytest.raises(DataError, match=r"2 battles.*'draw' \(2\)"):
            make()


def frame(rows: dict[str, list[str]]) -> pl.DataFrame:
    return pl.DataFrame(rows)


def test_missing_columns_and_values_are_told() -> None:
    with pytest.raises(DataError, match="no column winner"):
        votes_from_frame(pl.DataFrame({"model_a": ["x"], "model_b": ["y"]}))
    with pytest.raises(DataError, match="1 battles have no model_b"):
        votes_from_frame(pl.DataFrame(ROWS | {"model_b": ["y", None, "x"]}))


def test_a_model_against_itself_and_a_weight_of_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="meets itself"):
        votes_of(("x", "x", "tie"))
    with pytest.raises(DataError, match="weight"):
        votes_from_frame(pl.DataFrame(ROWS | {"weight": [1.0, 0.0, 1.0]}))


def test_a_name_that_is_not_listed_is_told() -> None:
    with pytest.raises(DataError, match="'z'"):
        votes_from_rows(*ROWS.values(), models=["x", "y"])


def test_no_votes_are_votes_too() -> None:
    assert len(votes_of()) == 0
    empty = pl.DataFrame({"model_a": [], "model_b": [], "winner": []})
    assert len(votes_from_frame(empty)) == 0
