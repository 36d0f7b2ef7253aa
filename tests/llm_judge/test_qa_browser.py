"""What the browser shows, as text; and the page in a real browser."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_judge import BENCH, FakeJudge, answer, is_pair, judge
from live import KEEP_ALIVE_S, LIMIT_S
from real_browser import new_tab, open_browser, until_sent
from real_processes import free_port, running, wait_until_answers

from fastchat.llm_judge import qa_browser
from fastchat.llm_judge.browser_page import _view_of, score_figures
from fastchat.llm_judge.browser_views import (
    ABSENT,
    answer_view,
    load_shelf,
    pair_view,
    reference_view,
    single_view,
    tidy,
    titles,
)
from fastchat.llm_judge.folders import Bench

OWN = Bench(data_dir=Path("data"), name="fastchat_bench")


@pytest.fixture
def judged(here: Path, fake: FakeJudge) -> Path:
    """Two models' answers with grades, and pairs in which the first one shown wins."""
    answer("one")
    answer("gpt-3.5-turbo", "--max-new-token", "30")
    fake.rule = lambda body: "First. [[A]]" if is_pair(body) else "Nice. Rating: [[6]]"
    judge(fake, "--first-n", "25", "--parallel", "8")
    judge(fake, "--first-n", "3", "--mode", "pairwise-all", "--parallel", "8")
    return here


def test_what_is_missing_is_not_there_and_breaks_nothing(here: Path) -> None:
    shelf = load_shelf(OWN)
    assert (shelf.models, shelf.judges) == ([], [])
    assert answer_view(shelf, 201, "m", 1) == single_view(shelf, 201, "m", "j") == ABSENT
    assert len(titles(shelf, "all")) == 80 and len(titles(shelf, "math")) == 10


@pytest.mark.slow
def test_views_name_games_grades_and_references(judged: Path) -> None:
    shelf = load_shelf(OWN)
    assert titles(shelf, "all")[0][0].startswith("201: Write a letter")
    assert len(titles(shelf, "all")[0][0]) == len("201: ") + 128
    assert "Grade: 6" in single_view(shelf, 201, "one", "rule")
    text = pair_view(shelf, 201, "one", "gpt-3.5-turbo", "rule")
    assert "**Game 1** (A: `gpt-3.5-turbo`, B: `one`). Winner: **`gpt-3.5-turbo`**" in text
    assert "**Game 2** (A: `one`, B: `gpt-3.5-turbo`). Winner: **`one`**" in text
    assert reference_view(shelf, 201, 1) == ""
    assert "From left to right" in reference_view(shelf, 221, 1)
    assert "2019-05-03" in reference_view(shelf, 251, 1)
    inconsistent = titles(shelf, "all", "judge inconsistent")
    assert [number for _, number in inconsistent] == [201, 202, 203]
    assert titles(shelf, "all", "models disagree") == []


def test_bullets_and_lists_become_markdown() -> None:
    assert tidy("Here:\n• one\n• two") == "Here:\n\n* one\n* two"
    assert tidy("Here:\n1. one\n2. two\nend") == "Here:\n\n1. one\n2. two\nend"
    assert tidy("a\n\n- b") == "a\n\n- b"


def test_every_turn_of_a_question_is_shown_and_no_more(here: Path) -> None:
    folder = here / "data" / "long"
    folder.mkdir(parents=True)
    rows: Any = [{"question_id": 1, "category": "a", "turns": ["one?", "two?", "three?"]}]
    rows += [{"question_id": 2, "category": "b", "turns": ["alone?"]}]
    (folder / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shelf = load_shelf(Bench(data_dir=Path("data"), name="long"))
    shown = _view_of(shelf)(1, None, "m")
    assert shown[0] == "Question 1, a" and len(shown) == 1 + 3 * 3 + 1
    assert shown[1::3][:3] == [f"**Turn {i}**\n\n{t}" for i, t in enumerate(rows[0]["turns"], 1)]
    assert _view_of(shelf)(2, None, "m")[4:-1] == [""] * 6
    assert len(_view_of(shelf)(None, None, "m")) == len(shown)


@pytest.mark.slow
def test_grades_of_several_categories_are_drawn_for_each_judge(judged: Path) -> None:
    drawn: Any = list(score_figures(load_shelf(OWN)))
    assert [judge for judge, _ in drawn] == ["rule"]
    (_, figure) = drawn[0]
    assert [trace.name for trace in figure.data] == ["gpt-3.5-turbo", "one"]
    assert list(figure.data[0].theta[:3]) == ["writing", "roleplay", "reasoning"]
    assert (
        list(score_figures(load_shelf(Bench(data_dir=Path("none"), name="fastchat_bench")))) == []
    )


@pytest.fixture
def page(judged: Path) -> Iterator[str]:
    """The page on a free port."""
    import uvicorn

    opened = threading.Event()
    servers: list[uvicorn.Server] = []
    listener = socket.create_server(("127.0.0.1", 0))

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            opened.set()

    async def main() -> None:
        app = qa_browser.build_app(qa_browser.BrowserSettings(bench_name="fastchat_bench"))
        config = uvicorn.Config(
            app, log_config=None, timeout_graceful_shutdown=1, timeout_keep_alive=KEEP_ALIVE_S
        )
        servers.append(Server(config))
        await servers[0].serve(sockets=[listener])

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert opened.wait(LIMIT_S)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    servers[0].should_exit = True
    thread.join(LIMIT_S)
    listener.close()


@pytest.fixture
def browser() -> Iterator[Any]:
    yield from open_browser()


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
@pytest.mark.filterwarnings("ignore")
def test_a_reader_finds_a_question_and_its_judgments(page: str, browser: Any) -> None:
    from playwright.sync_api import expect

    tab = new_tab(browser.new_context(viewport={"width": 380, "height": 800}))
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page)
    see = tab.locator(".question-1:visible").first
    expect(see).to_contain_text("lighthouse keeper")
    expect(tab.locator(".judgment:visible").first).to_contain_text("Grade: 6")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 380
    until_sent(tab, lambda: tab.keyboard.press("n"), lambda event: True)
    expect(see).to_contain_text("bakery")
    tab.keyboard.press("p")
    expect(see).to_contain_text("lighthouse keeper")
    tab.get_by_label("Category").first.click()
    tab.get_by_role("option", name="reasoning").click()
    expect(see).to_contain_text("Five boxes")
    expect(tab.locator(".reference:visible").first).to_contain_text("From left to right")
    for name in ("Pairwise Comparison", "Scores"):
        tab.locator(".overflow-menu button").first.click()
        tab.get_by_text(name).last.click()
        expect(tab.get_by_role("tab", name=name)).to_be_visible()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 380
    tab.set_viewport_size({"width": 1100, "height": 900})
    tab.get_by_role("tab", name="Pairwise Comparison").click()
    games = tab.locator(".judgment:visible").first
    expect(games).to_contain_text("Game 2")
    expect(games).to_contain_text(re.compile("Winner: one"))
    tab.get_by_role("tab", name="Scores").click()
    expect(tab.locator(".scores:visible").first).to_contain_text("6.00")
    expect(tab.locator(".plot:visible .main-svg").first).to_be_visible()
    assert all(url.startswith((page, "data:", "blob:")) for url in asked)


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_end(here: Path) -> None:
    port = free_port()
    flags = ["fastchat.llm_judge.qa_browser", *BENCH, "--host", "localhost", "--port", str(port)]
    with running(flags, log_path=here / "log") as (process,):
        wait_until_answers(f"http://localhost:{port}/", [process])
        wait_until_answers(f"http://127.0.0.1:{port}/", [process])
        process.terminate()
        assert process.wait(LIMIT_S) == 0
    assert f"Open http://localhost:{port}" in (here / "log").read_text()


def test_a_taken_port_and_absent_questions_are_one_line(here: Path, capsys: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert qa_browser.main([*BENCH, "--port", port]) == 2
    assert "choose another --port" in capsys.readouterr().err
    assert qa_browser.main(["--bench-name", "none", "--port", "0"]) == 1
    assert "there are no questions" in capsys.readouterr().err
