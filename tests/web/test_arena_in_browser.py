"""The arena in a real browser, as a new reader would use it."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastchat.web.texts import load_texts

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

CHROMIUM = Path("/usr/bin/chromium")
WORDS = load_texts().arena
CHAT = load_texts().chat
MODELS = ("lion-7b", "tiger-7b", "bear-7b")
BOX = ".message textarea:visible"
SHOTS = os.environ.get("FASTCHAT_SCREENSHOTS")
"""A folder for pictures of what the test sees; unset for none."""
WAIT_MS = 20_000


class Reader:
    """A person at the arena."""

    def __init__(self, context: Any, url: str) -> None:
        from playwright.sync_api import expect

        self.expect = expect
        self.tab = context.new_page()
        self.url = url
        self.requests: list[str] = []
        self.failures: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.failures.append(str(error)))
        self.open("/")

    def open(self, path: str) -> None:
        self.tab.goto(self.url + path)
        self.expect(self.tab.get_by_role("tab").first).to_be_visible(timeout=WAIT_MS)

    def say(self, text: str) -> None:
        box = self.tab.locator(BOX)
        self.expect(box).to_be_enabled(timeout=WAIT_MS)
        box.fill(text)
        box.press("Enter")

    def answers(self) -> Any:
        return self.tab.locator(".message.bot:visible")

    def button(self, name: str) -> Any:
        return self.tab.get_by_role("button", name=name, exact=True).locator("visible=true")

    def see(self, text: str) -> None:
        self.expect(self.tab.get_by_text(text).locator("visible=true").first).to_be_visible(
            timeout=WAIT_MS
        )

    def shoot(self, name: str) -> None:
        if SHOTS:
            self.tab.screenshot(path=Path(SHOTS) / f"{name}.png")


@pytest.fixture
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip("there is no chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def arena(serve_arena: Callable[..., str], fake: Any) -> str:
    fake.models = [{"id": name, "context_length": 4096} for name in MODELS]
    fake.says_its_name = False
    return serve_arena(votes_per_minute=0)


def test_ten_battles_move_the_board(browser: Any, arena: str) -> None:
    reader = Reader(browser.new_context(viewport={"width": 1280, "height": 800}), arena)
    reader.see(WORDS.greeting_battle)
    choices = [WORDS.left, WORDS.right, WORDS.tie, WORDS.left, WORDS.both_bad] * 2
    for number, choice in enumerate(choices):
        reader.say(f"question {number}: what is {number} + {number}?")
        reader.expect(reader.answers()).to_have_count(2, timeout=WAIT_MS)
        for i in range(2):
            reader.expect(reader.answers().nth(i)).to_contain_text(f"question {number}")
        labels = reader.tab.locator(".labels:visible")
        assert labels.inner_text().split() == ["Model", "A", "Model", "B"]
        reader.expect(reader.button(choice)).to_be_enabled(timeout=WAIT_MS)
        if number == 0:
            reader.shoot("battle")
        reader.button(choice).click()
        reader.see(WORDS.thanks)
        reader.expect(labels).to_contain_text(re.compile("|".join(MODELS)), timeout=WAIT_MS)
        reader.expect(reader.tab.locator(BOX)).to_be_disabled()
        if number == 0:
            reader.shoot("battle-voted")
        reader.expect(reader.button(WORDS.new_round)).to_be_enabled()
        reader.button(WORDS.new_round).click()
        reader.expect(reader.answers()).to_have_count(0, timeout=WAIT_MS)
        reader.see(WORDS.greeting_battle)
    reader.tab.get_by_role("tab", name=WORDS.tab_leaderboard).click()
    reader.see("10 votes")
    rows = reader.tab.locator(".ratings tbody tr")
    assert {rows.nth(i).locator("td").nth(2).inner_text() for i in range(rows.count())} <= set(
        MODELS
    )
    reader.shoot("board")
    foreign = [u for u in reader.requests if not u.startswith((arena, "data:", "blob:"))]
    assert foreign == []
    assert reader.failures == []


def test_models_are_compared_by_name_and_asked_alone(browser: Any, arena: str, fake: Any) -> None:
    reader = Reader(browser.new_context(viewport={"width": 1280, "height": 800}), arena)
    reader.open("/?compare")
    reader.see(WORDS.greeting_named)
    reader.say("hello both")
    reader.expect(reader.answers()).to_have_count(2, timeout=WAIT_MS)
    asked = {request["model"] for request in fake.requests}
    assert len(asked) == 2, "the two sides begin with different models"
    reader.expect(reader.button(WORDS.tie)).to_be_enabled(timeout=WAIT_MS)
    reader.button(WORDS.tie).click()
    reader.see(WORDS.thanks)
    reader.shoot("named")
    reader.say("and on")
    reader.expect(reader.answers()).to_have_count(4, timeout=WAIT_MS)
    reader.open(f"/?direct&model={MODELS[1]}")
    reader.see(WORDS.greeting_direct)
    reader.say("hello you")
    reader.expect(reader.answers()).to_have_count(1, timeout=WAIT_MS)
    assert fake.requests[-1]["model"] == MODELS[1]
    reader.expect(reader.button(WORDS.upvote)).to_be_enabled(timeout=WAIT_MS)
    reader.button(WORDS.upvote).click()
    reader.see(WORDS.thanks)
    reader.shoot("direct")
    assert reader.failures == []


def test_a_battle_fits_a_phone_and_the_keyboard(browser: Any, arena: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    reader = Reader(context, arena)
    reader.see(WORDS.greeting_battle)
    reader.say("hello from a small screen")
    reader.expect(reader.answers()).to_have_count(2, timeout=WAIT_MS)
    reader.expect(reader.button(WORDS.left)).to_be_enabled(timeout=WAIT_MS)
    width = reader.tab.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, "nothing sticks out at the side"
    for name in (WORDS.left, WORDS.right, WORDS.tie, WORDS.both_bad):
        box = reader.button(name).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 32
    reader.shoot("phone")
    reader.button(WORDS.left).focus()
    reader.tab.keyboard.press("Tab")
    focused = reader.tab.evaluate("document.activeElement.textContent.trim()")
    assert focused == WORDS.right
    reader.tab.keyboard.press("Enter")
    reader.see(WORDS.thanks)
    reader.shoot("phone-voted")
    assert reader.failures == []
