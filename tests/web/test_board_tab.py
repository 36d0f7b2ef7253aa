"""The arena's tabs of results, and what its page is made of."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from arena_votes import stored_vote
from gradio_session import Session
from live import LIMIT_S

from fastchat.arena.export import json_of
from fastchat.arena.leaderboard import Board, Leaderboard, Row
from fastchat.arena.live_categories import LiveCategories
from fastchat.errors import FastChatError
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database
from fastchat.web.board_tab import COPILOT_TITLE, BoardFiles, board_source
from fastchat.web.leaderboard import leaderboard_words


@pytest.fixture
def store(tmp_path: Path) -> ArenaStore:
    return ArenaStore(Database(str(tmp_path / "a.db")))


def results(path: Path, model: str) -> Path:
    row = Row(
        model=model,
        rating=1000.0,
        lower=990.0,
        upper=1010.0,
        variance=1.0,
        rank=1,
        n_battles=5,
        win_rate=None,
    )
    board = Board(key="full", title="Overall", rows=(row,), n_votes=5)
    path.write_bytes(json_of(Leaderboard(boards={"full": board})))
    return path


def test_the_board_comes_from_the_store_or_from_a_results_file(
    store: ArenaStore, tmp_path: Path
) -> None:
    live = board_source(store, BoardFiles())
    assert live.leaderboard().first.rows == ()
    live.close()
    path = results(tmp_path / "ratings.json", "lion")
    source = board_source(store, BoardFiles(results=path))
    assert [r.model for r in source.leaderboard().first.rows] == ["lion"]
    assert source.leaderboard() is source.leaderboard(), "a file that stays is read once"
    results(path, "tiger-of-another-length")
    assert [r.model for r in source.leaderboard().first.rows] == ["tiger-of-another-length"]
    path.write_text("no results", "utf-8")
    with pytest.raises(FastChatError):
        board_source(store, BoardFiles(results=path))
    store.database.close()


def test_own_categories_stand_beside_those_that_ship(store: ArenaStore, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[category.mine]\ntitle = "Mine"\nmin_user_tokens = 1\n', "utf-8")
    store.record([stored_vote("1", "leftvote"), stored_vote("2", "rightvote")])
    source = board_source(store, BoardFiles(categories=path))
    assert isinstance(source, LiveCategories)
    source.leaderboard()
    source.wait()
    assert source.leaderboard().boards["mine"].n_votes == 2
    source.close()
    path.write_text("[category.mine]\n", "utf-8")
    with pytest.raises(FastChatError, match="mine"):
        board_source(store, BoardFiles(categories=path))
    store.database.close()


@pytest.mark.slow
def test_results_and_tables_of_files_are_shown_on_the_page(
    serve_arena: Callable[..., str], tmp_path: Path
) -> None:
    models, hard = tmp_path / "models.csv", tmp_path / "hard.csv"
    models.write_text("key,Model,MMLU,License\nlion,Lion 7B,0.5,MIT\n", "utf-8")
    hard.write_text("model,score\nlion,33.3\n", "utf-8")
    path = results(tmp_path / "ratings.json", "lion")
    files = BoardFiles(results=path, models=models, hard=hard, copilot_url="http://127.0.0.1:1/")
    session = Session(serve_arena(board=files))
    [refresh] = [f for f in session.all if f["api_name"] == "refresh"]
    session.functions["board"] = refresh
    # A page that was open before the server began again still has its choice.
    summary, choices, table = session.call("board", "german", False, False, "")[-1]
    assert "1 models, 5 votes" in summary and "Lion 7B" in table
    assert choices["choices"] == [["Overall", "full"]]
    labels = [c["props"].get("label") for c in session.http.get("/config").json()["components"]]
    words = leaderboard_words()
    for tab in (words.tab_arena, words.tab_overview, words.hard, words.tab_full, COPILOT_TITLE):
        assert labels.count(tab) == 1
    assert words.tab_vision not in labels, "this arena takes no pictures"
    assert "33.3" in session.http.get("/config").text
    session.close()


@pytest.mark.slow
def test_the_tabs_have_the_published_controls(serve_arena: Callable[..., str]) -> None:
    page = serve_arena(shows_visualizer=True)
    config = httpx.get(f"{page}/config", timeout=LIMIT_S).json()
    of_kind: dict[str, list[dict[str, Any]]] = {}
    for component in config["components"]:
        of_kind.setdefault(component["type"], []).append(component["props"])
    tabs = [(tab["label"], tab["id"]) for tab in of_kind["tabitem"] if "id" in tab]
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


@pytest.mark.slow
def test_analytics_are_loaded_only_when_asked_for(serve_arena: Callable[..., str]) -> None:
    plain = httpx.get(serve_arena(), timeout=LIMIT_S)
    assert "google" not in plain.headers["content-security-policy"]
    assert "googletagmanager" not in plain.text
    told = httpx.get(serve_arena(analytics_id="G-123"), timeout=LIMIT_S)
    assert "https://www.googletagmanager.com" in told.headers["content-security-policy"]
    assert "gtag/js?id=G-123" in told.text


@pytest.mark.slow
def test_a_browser_is_named_once_by_a_cookie_of_ours(serve_arena: Callable[..., str]) -> None:
    with httpx.Client(base_url=serve_arena(), timeout=LIMIT_S) as browser:
        first = browser.get("/").headers["set-cookie"]
        assert "HttpOnly" in first and "SameSite=Lax" in first
        assert len(browser.cookies["fastchat_visitor"]) >= 43, "256 random bits"
        assert "set-cookie" not in browser.get("/").headers


@pytest.mark.slow
def test_the_page_speaks_chinese(serve_arena: Callable[..., str]) -> None:
    config = httpx.get(f"{serve_arena(page={'language': 'zh'})}/config", timeout=LIMIT_S).text
    assert "竞技场" in json.dumps(json.loads(config), ensure_ascii=False)
    assert "Arena (battle)" not in config
