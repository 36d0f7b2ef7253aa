import csv
import io
import json
import math
import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from voting import random_votes

from fastchat.arena.battle_files import battle_table
from fastchat.arena.categories import chosen_categories
from fastchat.arena.export import csv_of, html_of, json_of, leaderboard_from_json, read_leaderboard
from fastchat.arena.leaderboard import STYLE_SUFFIX, Leaderboard, Method, build
from fastchat.arena.plots import FIGURES, rating_over_time
from fastchat.arena.style import FEATURES
from fastchat.arena.votes import LABELS
from fastchat.errors import DataError, UsageError


def battles(n: int = 600, m: int = 5, *, style: bool = True) -> pl.DataFrame:
    votes, _ = random_votes(n, m)
    rng = np.random.default_rng(5)
    columns = {
        "model_a": [votes.models[i] for i in votes.a],
        "model_b": [votes.models[i] for i in votes.b],
        "winner": [LABELS[i] for i in votes.outcome],
        "tstamp": 1.7e9 + 3600.0 * np.arange(n),
        "language": rng.choice(["English", "German"], n),
    }
    if style:
        columns |= {f"{f}_{s}": rng.integers(0, 90, n) for f in FEATURES for s in "ab"}
    return battle_table(pl.DataFrame(columns)).frame


def built(frame: pl.DataFrame, *keys: str, method: Method | None = None) -> Leaderboard:
    return build(frame, chosen_categories(keys or ("full",), {}), method=method)


def finite(value: object) -> bool:
    """Whether no number within is NaN or infinite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return all(map(finite, value)) if isinstance(value, list) else True


def test_boards_of_categories_with_and_without_style() -> None:
    found = built(battles(), "full", "english", method=Method(style=True, moments=4))
    assert list(found.boards) == [
        *("full" + STYLE_SUFFIX, "full"),
        *("english" + STYLE_SUFFIX, "english"),
    ]
    assert found.boards["full"].n_votes == 600
    assert 0 < found.boards["english"].n_votes < 600
    assert set(found.first.coefficients) == set(FEATURES)
    ratings = [row.rating for row in found.boards["full"].rows]
    assert ratings == sorted(ratings, reverse=True)
    assert len(found.history) == 4
    last = found.history[-1][1]
    assert last == pytest.approx({r.model: r.rating for r in found.boards["full"].rows})


def test_win_fractions_and_battles_are_in_the_order_of_the_rows() -> None:
    frame = battles()
    board = built(frame).first
    best, second = board.rows[0].model, board.rows[1].model
    met = frame.filter(
        pl.col("model_a").is_in([best, second]) & pl.col("model_b").is_in([best, second])
    )
    assert board.battles[0][1] == board.battles[1][0] == met.height
    fraction = board.win_fractions[0][1]
    assert fraction is not None and fraction + (board.win_fractions[1][0] or 0.0) == pytest.approx(
        1
    )
    assert board.win_fractions[0][0] is None


@pytest.mark.parametrize("system", ["bt", "elo"])
@pytest.mark.parametrize("interval", ["sandwich", "bootstrap"])
def test_every_method_gives_a_board(system: str, interval: str) -> None:
    method = Method(system=system, interval=interval, rounds=20, anchor=("m02", 1200.0))  # type: ignore[arg-type]
    found = built(battles(), method=method)
    row = next(r for r in found.first.rows if r.model == "m02")
    assert row.rating == pytest.approx(1200.0)
    assert all(r.lower <= r.rating <= r.upper for r in found.first.rows)
    with pytest.raises(UsageError, match="'m99'"):
        built(battles(), method=Method(system=system, anchor=("m99", 1.0)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("a", "b", "model_a")],
        [("a", "b", "model_a"), ("c", "d", "tie")],
    ],
)
def test_hardly_any_battles_make_a_clear_board_without_nan(
    rows: list[tuple[str, str, str]],
) -> None:
    frame = pl.DataFrame(rows, schema=["model_a", "model_b", "winner"], orient="row")
    for method in (
        Method(style=True, moments=3),
        Method(interval="bootstrap"),
        Method(system="elo"),
    ):
        found = built(battle_table(frame).frame, "full", "math", method=method)
        assert finite(json.loads(json_of(found)))
        assert rows == [] or found.boards["full"].rows
        assert method.system == "elo" or found.boards["full"].notes
        assert "tags" in found.boards["math"].notes[0] or not rows
        assert html_of(found)
        assert all(draw(found.first) for draw in FIGURES.values())


def test_json_gives_back_the_same_leaderboard(tmp_path: Path) -> None:
    found = built(battles(), "full", "english", method=Method(style=True, moments=2))
    assert leaderboard_from_json(json_of(found)) == found
    (tmp_path / "ratings.json").write_bytes(json_of(found))
    assert read_leaderboard(tmp_path / "ratings.json") == found


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pickle.dumps({"a": 1}), "pickle"),
        (b"[]", "no leaderboard"),
        (b"{", "damaged"),
        (b'{"format": "fastchat-leaderboard-1"}', "damaged"),
    ],
)
def test_other_bytes_are_refused_unread(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        leaderboard_from_json(data)


def test_csv_has_the_published_columns() -> None:
    found = built(battles())
    rows = list(csv.DictReader(io.StringIO(csv_of(found.first))))
    assert list(rows[0])[:6] == [
        *("model", "rating", "rating_q025", "rating_q975", "rank", "num_battles"),
    ]
    assert float(rows[0]["rating"]) == found.first.rows[0].rating


def test_the_page_holds_everything_and_asks_for_nothing() -> None:
    frame = battles(style=False).with_columns(
        pl.col("model_a").replace("m01", "</script><b>m"),
        pl.col("model_b").replace("m01", "</script><b>m"),
    )
    page = html_of(built(frame, "full", "german"), title="<Ours>")
    assert "</script><b>m" not in page
    assert "&lt;/script&gt;&lt;b&gt;m" in page and "&lt;Ours&gt;" in page
    assert "http://" not in page and "https://" not in page and "src=" not in page
    assert page.count("{{") == 0


def test_figures_draw_what_the_board_holds() -> None:
    found = built(battles(), method=Method(moments=3))
    intervals = FIGURES["intervals"](found.first).to_dict()
    assert list(intervals["data"][0]["x"]) == [row.model for row in found.first.rows]
    assert len(FIGURES["battle_count_heatmap"](found.first, shown=2).to_dict()["data"][0]["z"]) == 2
    assert len(rating_over_time(found).to_dict()["data"]) == len(found.first.rows)
