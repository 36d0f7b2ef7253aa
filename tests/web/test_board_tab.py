"""The arena's tabs of results, and what its page is made of."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastchat.arena.export import json_of
from fastchat.arena.leaderboard import Board, Leaderboard, Row
from fastchat.errors import FastChatError, UsageError
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database
from fastchat.web.board_tab import BoardFiles, board_source, table_html


@pytest.fixture
def store(tmp_path: Path) -> ArenaStore:
    return ArenaStore(Database(str(tmp_path / "a.db")))


def test_the_board_comes_from_the_store_or_from_a_results_file(
    store: ArenaStore, tmp_path: Path
) -> None:
    assert board_source(store, BoardFiles())().first.rows == ()
    row = Row(
        model="lion",
        rating=1000.0,
        lower=990.0,
        upper=1010.0,
        variance=1.0,
        rank=1,
        n_battles=5,
        win_rate=None,
    )
    board = Board(key="full", title="Overall", rows=(row,), n_votes=5)
    path = tmp_path / "ratings.json"
    path.write_bytes(json_of(Leaderboard(boards={"full": board})))
    read = board_source(store, BoardFiles(results=path))
    assert [r.model for r in read().first.rows] == ["lion"]
    path.write_text("no results", "utf-8")
    with pytest.raises(FastChatError):
        board_source(store, BoardFiles(results=path))
    store.database.close()


def test_a_table_of_results_is_shown_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "hard.csv"
    path.write_text('model,score\n"a, <b>",9\n', "utf-8")
    assert "<td>a, &lt;b&gt;</td><td>9</td>" in table_html(path, "Title")
    for text in ("", "model,score\n"):
        path.write_text(text, "utf-8")
        with pytest.raises(UsageError, match="no rows"):
            table_html(path, "Title")
    with pytest.raises(UsageError, match="cannot be read"):
        table_html(tmp_path / "none", "Title")


def test_the_tabs_have_the_published_controls(serve_arena: Callable[..., str]) -> None:
    page = serve_arena(shows_visualizer=True)
    config = httpx.get(f"{page}/config").json()
    of_kind: dict[str, list[dict[str, Any]]] = {}
    for component in config["components"]:
        of_kind.setdefault(component["type"], []).append(component["props"])
    tabs = [(tab["label"], tab["id"]) for tab in of_kind["tabitem"]]
    assert tabs == [
        ("Arena (battle)", 0),
        ("Arena (side-by-side)", 1),
        ("Direct Chat", 2),
        ("Leaderboard", 3),
        ("Arena Visualizer", 5),
        ("About Us", 4),
    ]
    sliders = of_kind["slider"]
    values = [[s["minimum"], s["maximum"], s["step"], s["value"]] for s in sliders]
    assert [v for v in values if v[1] == 2048] == [
        [16, 2048, 64, 2000],
        [16, 2048, 64, 1024],
        [16, 2048, 64, 1024],
    ]
    assert values.count([0, 1, 0.1, 0.7]) == values.count([0, 1, 0.1, 1.0]) == 3
    labels = [button["value"] for button in of_kind["button"]]
    for label in ("A is better", "B is better", "Tie", "Both are bad"):
        assert labels.count(label) == 2
    for label in ("Upvote", "Downvote", "Flag", "New Round"):
        assert labels.count(label) == 1
    assert labels.count("Regenerate") == 3


def test_analytics_are_loaded_only_when_asked_for(serve_arena: Callable[..., str]) -> None:
    plain = httpx.get(serve_arena())
    assert "google" not in plain.headers["content-security-policy"]
    assert "googletagmanager" not in plain.text
    told = httpx.get(serve_arena(analytics_id="G-123"))
    assert "https://www.googletagmanager.com" in told.headers["content-security-policy"]
    assert "gtag/js?id=G-123" in told.text


def test_a_browser_is_named_once_by_a_cookie_of_ours(serve_arena: Callable[..., str]) -> None:
    with httpx.Client(base_url=serve_arena()) as browser:
        first = browser.get("/").headers["set-cookie"]
        assert "HttpOnly" in first and "SameSite=Lax" in first
        assert len(browser.cookies["fastchat_visitor"]) >= 43, "256 random bits"
        assert "set-cookie" not in browser.get("/").headers


def test_the_page_speaks_chinese(serve_arena: Callable[..., str]) -> None:
    config = httpx.get(f"{serve_arena(page={'language': 'zh'})}/config").text
    assert "竞技场" in json.dumps(json.loads(config), ensure_ascii=False)
    assert "Arena (battle)" not in config
