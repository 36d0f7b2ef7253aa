"""A person at the arena, in a real browser."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastchat.web.texts import load_texts

WORDS = load_texts().arena
CHROMIUM = Path("/usr/bin/chromium")
BOX = ".message textarea:visible"
SHOTS = os.environ.get("FASTCHAT_SCREENSHOTS")
"""A folder for pictures of what the tests see; unset for none."""
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

    def vote(self, choice: str) -> None:
        """Votes once that is possible, and waits until the vote is saved."""
        self.expect(self.button(choice)).to_be_enabled(timeout=3 * WAIT_MS)
        self.button(choice).click()
        self.see(WORDS.thanks)

    def begin_new_round(self) -> None:
        self.button(WORDS.new_round).click()
        self.expect(self.answers()).to_have_count(0, timeout=WAIT_MS)


def open_browser() -> Iterator[Any]:
    """A browser for the tests; it is closed in the end."""
    if not CHROMIUM.exists():
        pytest.skip("there is no chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()
