"""The tables beside the leaderboard's own."""

from pathlib import Path

import pytest

from fastchat.arena.leaderboard import Board, Leaderboard, Row
from fastchat.arena.model_table import ModelInfo
from fastchat.errors import UsageError
from fastchat.web.board_tables import csv_html, full_html, overview_html, scores_of
from fastchat.web.leaderboard import FEW_VOTES, leaderboard_words

WORDS = leaderboard_words()


def row(model: str, rank: int, *, n: int = 1000) -> Row:
    return Row(
        model=model,
        rating=1100.0 - rank,
        lower=1000.0,
        upper=1200.0,
        variance=1.0,
        rank=rank,
        n_battles=n,
        win_rate=0.5,
    )


def board(key: str, *rows: Row) -> Board:
    return Board(key=key, title=key.title(), rows=rows, n_votes=len(rows))


def leaderboard() -> Leaderboard:
    boards = [
        board("full", row("lion", 1), row("<b>ear", 4)),
        board("full_style_control", row("lion", 2)),
        board("german", row("<b>ear", 1), row("lion", 2, n=FEW_VOTES)),
    ]
    return Leaderboard(boards={b.key: b for b in boards})


def test_the_overview_has_a_column_for_each_category_and_marks_the_best() -> None:
    shown = overview_html(leaderboard(), WORDS, by_rating=False)
    assert '<th scope="col">Full</th><th scope="col">German</th>' in shown
    assert "Style" not in shown
    assert '<td>lion</td><td><b class="best best-1">1</b></td><td>–</td>' in shown
    assert '<td>&lt;b&gt;ear</td><td>4</td><td><b class="best best-1">1</b></td>' in shown
    assert ">1099</b>" in overview_html(leaderboard(), WORDS, by_rating=True)
    assert '<th scope="col">德文</th>' in overview_html(
        leaderboard(), leaderboard_words("zh"), by_rating=False
    )
    assert WORDS.empty in overview_html(Leaderboard(boards={}), WORDS, by_rating=False)


def test_the_full_table_has_the_scores_of_every_model() -> None:
    infos = {
        "lion": ModelInfo(key="lion", name="Lion", mt_bench=7.25, mmlu=0.615, license="MIT"),
        "hare": ModelInfo(key="hare", name="Hare", organization="A & B"),
    }
    shown = full_html(leaderboard(), WORDS, infos, {"Lion": "41.5"})
    assert "<td>Lion</td><td>1099</td><td>41.5</td><td>7.25</td><td>61.5</td><td>–</td>" in shown
    assert "<td>Hare</td><td>–</td><td>–</td><td>–</td><td>–</td><td>A &amp; B</td>" in shown
    assert "&lt;b&gt;ear" in shown, "models that the table does not know are there as well"
    assert WORDS.hard not in full_html(leaderboard(), WORDS, infos, {})


def test_a_table_of_results_is_shown_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "hard.csv"
    path.write_text('Model,score\n"a, <b>",9\n', "utf-8")
    assert "<td>a, &lt;b&gt;</td><td>9</td>" in csv_html(path, "Title")
    assert scores_of(path) == {"a, <b>": "9"}
    path.write_text("name,points\na,9\n", "utf-8")
    assert scores_of(path) == {}
    for text in ("", "model,score\n"):
        path.write_text(text, "utf-8")
        with pytest.raises(UsageError, match="no rows"):
            csv_html(path, "Title")
    with pytest.raises(UsageError, match="cannot be read"):
        csv_html(tmp_path / "none", "Title")
