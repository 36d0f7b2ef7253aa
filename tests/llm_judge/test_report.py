import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_judge import FakeJudge, answer, is_pair, judge
from real_browser import new_tab, open_browser

from fastchat.llm_judge import report
from fastchat.llm_judge.safe_html import html_of

FOLDER = Path("data/fastchat_bench/report")


@pytest.fixture
def judged(here: Path, fake: FakeJudge) -> Path:
    """Grades and comparisons of two models; the judge writes what a page must not obey."""
    answer("one")
    answer("a/two", "--max-new-token", "30")
    hostile = "<script>document.title='x'</script> ![p](http://evil.example/p) </script>"
    fake.rule = lambda body: f"{hostile} [[A]]" if is_pair(body) else f"{hostile} Rating: [[6]]"
    judge(fake, "--parallel", "16")
    judge(fake, "--first-n", "3", "--mode", "pairwise-all", "--parallel", "16")
    return here


def write(*flags: str, status: int = 0) -> None:
    words = ["--bench-name", "fastchat_bench", "--judge-model", "rule", *flags]
    assert report.main(words) == status


@pytest.mark.slow
def test_a_report_is_a_page_markdown_and_json_of_one_result(judged: Path) -> None:
    write()
    value = json.loads((FOLDER / "rule.json").read_text())
    grades, pairs = value["results"]["Grades"], value["results"]["Compared with each other"]
    assert grades["average"]["one"]["value"] == 6 and grades["average"]["one"]["n"] == 160
    assert pairs["wins"]["one"]["tie"] == 6
    assert (value["benchmark"], value["judges"]) == ("fastchat_bench", ["rule"])
    text = (FOLDER / "rule.md").read_text()
    assert (
        text.startswith("# fastchat_bench, judged by rule") and "| a/two | 1 | 6.000000 |" in text
    )
    page = (FOLDER / "rule.html").read_text()
    assert "<td>a/two</td>" in page and "Plotly" in page
    assert "<script>document.title" not in page and "@@" not in re.sub(
        r"<script>.*?</script>", "", page, flags=re.S
    )


@pytest.mark.slow
def test_the_report_can_be_small_and_of_chosen_models(judged: Path) -> None:
    write("--no-answers", "--model-list", "one", "--mode", "single", "--output", "r/small.html")
    value = json.loads(Path("r/small.json").read_text())
    assert list(value["results"]) == ["Grades"] and set(value["results"]["Grades"]["turn_1"]) == {
        "one"
    }
    assert 'id="data">null<' in Path("r/small.html").read_text()


def test_what_is_not_there_is_said(here: Path, fake: FakeJudge, capsys: Any) -> None:
    write(status=2)
    assert "make them with gen_judgment" in capsys.readouterr().err
    write("--output", "x.pdf", status=2)
    assert "ends in .html" in capsys.readouterr().err


@pytest.mark.slow
def test_a_baseline_that_is_in_every_pair_is_taken_for_one(here: Path, fake: FakeJudge) -> None:
    answer("one")
    answer("gpt-3.5-turbo")
    judge(fake, "--first-n", "2", "--mode", "pairwise-baseline")
    write()
    value = json.loads((FOLDER / "rule.json").read_text())
    assert list(value["results"]) == ["Compared with gpt-3.5-turbo"]


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("**a** & <b>", "<p><strong>a</strong> &amp; &lt;b&gt;</p>\n"),
        (
            "![x](http://e.example/p)",
            '<p>!<a href="http://e.example/p" rel="noopener noreferrer nofollow">x</a></p>\n',
        ),
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>\n"),
        ("[x](data:text/html,1)", "<p>[x](data:text/html,1)</p>\n"),
        ("<img src=x onerror=alert(1)>", "<p>&lt;img src=x onerror=alert(1)&gt;</p>\n"),
        ("One:\n• two", "<p>One:</p>\n<ul>\n<li>two</li>\n</ul>\n"),
    ],
)
def test_markdown_becomes_html_that_does_nothing(text: str, made: str) -> None:
    assert html_of(text) == made


@pytest.fixture
def browser() -> Iterator[Any]:
    yield from open_browser()


@pytest.fixture
def page(judged: Path, browser: Any) -> Any:
    write()
    page = new_tab(browser.new_context(viewport={"width": 390, "height": 844}))
    page.trouble = []
    page.on("console", lambda message: page.trouble.append(message.text))
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on("request", lambda r: r.url.startswith("http") and page.trouble.append(r.url))
    page.goto((judged / FOLDER / "rule.html").as_uri())
    page.wait_for_selector("#reading:not([hidden])")
    return page


@pytest.mark.slow
def test_the_page_is_read_by_mouse_and_keyboard_on_a_phone_in_the_dark(page: Any) -> None:
    from playwright.sync_api import expect

    expect(page.locator(".plot .main-svg").nth(2)).to_be_attached()
    assert "Write a letter" in page.inner_text("#shown")
    page.click("text=What rule said >> nth=0")
    assert "<script>document.title" in page.inner_text("#shown")
    assert "Game 1, a/two before one: rule prefers a/two" in page.inner_text("#shown")
    page.keyboard.press("ArrowRight")
    assert "bakery" in page.inner_text("#shown")
    page.select_option("#category", "math")
    assert "Reference solution" in page.inner_text("#shown")
    page.select_option("#b", "a/two")
    assert page.locator("#shown article .head").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.emulate_media(color_scheme="dark")
    expect(page.locator(".plot .gtitle").first).to_have_css("fill", "rgb(231, 234, 240)")
    assert page.trouble == [] and page.title() == "fastchat_bench, judged by rule"
