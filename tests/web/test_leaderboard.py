import base64
import re
from dataclasses import replace
from typing import Any, cast

import pytest

from fastchat.arena.export import leaderboard_from_json
from fastchat.arena.leaderboard import STYLE_SUFFIX, Board, Leaderboard, Row
from fastchat.arena.model_table import ModelInfo
from fastchat.errors import StoreError
from fastchat.web.leaderboard import (
    FEW_VOTES,
    LONGEST_NAME,
    LeaderboardView,
    Shown,
    board_shown,
    categories_of,
    export_html,
    figure_of,
    leaderboard_words,
    table_html,
)


def row(model: str, rating: float, rank: int, n: int = 1000) -> Row:
    return Row(
        model=model,
        rating=rating,
        lower=rating - 9.0,
        upper=rating + 9.0,
        variance=21.0,
        rank=rank,
        n_battles=n,
        win_rate=0.5,
    )


def board(key: str, *rows: Row, title: str = "Overall") -> Board:
    blank = tuple((None,) * len(rows) for _ in rows)
    battles = tuple((0,) * len(rows) for _ in rows)
    return Board(key=key, title=title, rows=rows, n_votes=77, win_fractions=blank, battles=battles)


SHOWN = Leaderboard(
    boards={
        "full" + STYLE_SUFFIX: board("full" + STYLE_SUFFIX, row("b", 1100, 1), row("a<b>", 900, 2)),
        "full": board("full", row("a<b>", 1050, 1), row("b", 950, 2)),
        "english": board("english", row("b", 1010, 1), row("a<b>", 990, 2, n=300), title="English"),
    },
    updated_at=1.7e9,
)
WORDS = leaderboard_words()


def table(shown: Shown, infos: dict[str, ModelInfo] | None = None) -> str:
    return table_html(SHOWN, shown, WORDS, infos or {})


def test_categories_are_chosen_and_style_is_a_switch() -> None:
    assert categories_of(SHOWN) == [("Overall", "full"), ("English", "english")]
    assert board_shown(SHOWN, Shown()).key == "full"
    assert board_shown(SHOWN, Shown(style=True)).key == "full_style_control"
    assert board_shown(SHOWN, Shown(category="english", style=True)).key == "english"
    assert board_shown(SHOWN, Shown(category="nonsense")).key == "full"
    assert board_shown(Leaderboard(boards={}), Shown()).rows == ()


def test_names_are_text_and_the_other_rank_stands_beside() -> None:
    text = table(Shown())
    assert "<b>" not in text.replace("a&lt;b&gt;", "") and "a&lt;b&gt;" in text
    assert WORDS.rank_style in text
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text)
    assert cells[:6] == ["1", "2", "a&lt;b&gt;", "1050", "+9/-9", "1,000"]


def test_other_categories_show_the_change_and_leave_few_votes_out() -> None:
    cells = re.findall(r"<td[^>]*>(.*?)</td>", table(Shown(category="english")))
    assert cells == ["1", "+1", "b", "1010", "+9/-9", "1,000"]


def test_models_are_found_by_part_of_their_name() -> None:
    assert table(Shown(search="A<")).count("<tr>") == 2
    assert WORDS.empty in table(Shown(search="zzz"))


def test_the_table_of_models_tells_who_made_them() -> None:
    infos = {
        "b": ModelInfo(key="b", name="Bee", organization="O & Co", link="https://x.org/?a=1&b=2"),
        "a<b>": ModelInfo(key="a<b>", name="Old", deprecated=True),
    }
    text = table(Shown(), infos)
    assert "O &amp; Co" in text and 'href="https://x.org/?a=1&amp;b=2"' in text
    assert "Old" not in text
    assert "Old" in table(Shown(deprecated=True), infos)


def test_links_hold_the_files() -> None:
    links = dict(
        re.findall(r'download="([^"]+)" href="data:[^,]+,([^"]+)"', export_html(SHOWN, Shown()))
    )
    assert set(links) == {"ratings_full.csv", "ratings.json", "leaderboard.html"}
    assert leaderboard_from_json(base64.b64decode(links["ratings.json"])).first.rows
    assert base64.b64decode(links["ratings_full.csv"]).startswith(b"model,rating,")


def test_every_figure_has_a_name_and_is_drawn() -> None:
    for name in WORDS.figures:
        assert figure_of(SHOWN, Shown(), name).layout.paper_bgcolor == "rgba(0, 0, 0, 0)"


def test_long_names_leave_room_for_the_figure() -> None:
    long = "organisation/" + "x" * 80
    named = board("full", row(long, 1000, 1))
    axis = figure_of(Leaderboard(boards={"full": named}), Shown(), "intervals").layout.xaxis
    assert list(axis.tickvals) == [long]
    assert [len(text) for text in axis.ticktext] == [LONGEST_NAME]


def test_a_column_that_would_be_empty_is_left_out_and_few_votes_are_told() -> None:
    alone = Leaderboard(boards={"full": board("full", row("a", 1000, 1))})
    assert WORDS.rank_style not in table_html(alone, Shown(), WORDS, {})
    few = row("a", 1000, 1, n=FEW_VOTES)
    both = Leaderboard(boards={**alone.boards, "english": board("english", few)})
    text = table_html(both, Shown(category="english"), WORDS, {})
    assert WORDS.empty in text and WORDS.few.format(n=FEW_VOTES, left_out=1) in text
    whole = table_html(both, Shown(category="english", all_models=True), WORDS, {})
    assert ">a</td>" in whole and "left out" not in whole


@pytest.mark.parametrize("language", ["en", "zh"])
def test_words_are_complete_in_both_languages(language: str) -> None:
    words = leaderboard_words(language)
    assert set(words.figures) == set(WORDS.figures)
    assert words.summary.format(models=1, votes="2", updated="x")


def test_an_empty_board_says_so() -> None:
    empty = Leaderboard(boards={"full": replace(board("full"), notes=("No battles yet.",))})
    text = table_html(empty, Shown(), WORDS, {})
    assert WORDS.empty in text and "No battles yet." in text


def test_a_store_that_is_gone_leaves_the_page_standing() -> None:
    def gone() -> Leaderboard:
        raise StoreError("gone")

    view = LeaderboardView(cast(Any, None), gone, {}, WORDS)
    first, *_ = view.refresh("", False, False, "")
    assert WORDS.unavailable in first
