"""The static page in a real browser, served by Python's own file server."""

import http.server
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastchat.eval import generate_webpage_data_from_table

CHROMIUM = Path("/usr/bin/chromium")
LIMIT_MS = 180_000
"""For what must happen."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no chromium"),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def address(tables: Path) -> Iterator[str]:
    answers = tables / "answer/answer_new-7b.jsonl"
    hostile = "<img src=http://evil.example/x><script>document.title=1</script> ![p](http://evil.example/p)"
    text = hostile + " [l](javascript:alert(1)) " + "word " * 400
    answers.write_text(answers.read_text().replace("new-7b says 1", text))
    words = ["--input", str(tables), "--output", "web/data.json"]
    assert generate_webpage_data_from_table.main(words) == 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory="web"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox"], timeout=LIMIT_MS
        )
        page: Any = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(LIMIT_MS)
        page.asked, page.errors = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.errors.append(message.text))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#shown:not([hidden])")
        yield page
        browser.close()


def test_one_reads_compares_and_moves_by_mouse_and_keyboard(page: Any, address: str) -> None:
    assert page.inner_text("#text") == "q1?"
    first, second = page.query_selector_all("#answers article")
    assert "old-7b says 1" in first.inner_text() and "weaker · 1/10" in first.inner_text()
    assert "better · 9/10" in second.inner_text()
    assert "Assistant 1 and Assistant 2 <b>tried</b>." in page.inner_text("#review")
    page.click("text=Show more")  # which comes with the next frame
    page.wait_for_selector("text=Show less")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#text") == "q2?" and "tie · 5/10" in page.inner_text("#answers")
    page.keyboard.press("m")
    assert "other says 2" in page.inner_text("#answers") and "no score" in page.inner_text(
        "#answers"
    )
    assert page.evaluate("location.hash") == "#question=2&model=other"
    page.click("#next")
    page.click("#next")
    assert page.inner_text("#place") == "1 of 3"
    page.select_option("#category", "math")
    assert page.inner_text("#place") == "1 of 1" and page.inner_text("#text") == "q3?"
    assert re.search(r"old-7b\s+new-7b\s+14.0\s+16.5\s+1\s+1\s+1", page.inner_text("#sums"))
    assert page.errors == [] and page.title() == "Answers compared"
    assert all(url.startswith((address, "data:")) for url in page.asked), page.asked
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not page.query_selector_all("#answers img, #answers script, a[href^=javascript]")


def test_a_link_leads_to_its_question_and_dark_is_dark(page: Any, address: str) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(f"{address}#question=3&model=other")
    page.reload()
    page.wait_for_selector("#shown:not([hidden])")
    assert page.inner_text("#text") == "q3?" and "other says 3" in page.inner_text("#answers")
    red, *_ = re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert int(red) < 60


def test_without_data_the_page_says_what_to_do(page: Any, address: str) -> None:
    Path("web/data.json").unlink()
    page.goto(address + "index.html")
    page.wait_for_selector("#trouble:not([hidden])")
    assert "generate_webpage_data_from_table" in page.inner_text("#trouble")
