"""A person at the arena, in a real browser."""

import os
from pathlib import Path
from typing import Any

from real_browser import LIMIT_MS, new_tab, send

from fastchat.web.texts import load_texts

WORDS = load_texts().arena
WAITING = load_texts().chat.wait
BOX = ".message textarea:visible"
SHOTS = os.environ.get("FASTCHAT_SCREENSHOTS")
"""A folder for pictures of what the tests see; unset for none."""


class Reader:
    """A person at the arena."""

    def __init__(self, context: Any, url: str) -> None:
        from playwright.sync_api import expect

        self.expect = expect
        self.tab = new_tab(context)
        self.url = url
        self.requests: list[str] = []
        self.failures: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.failures.append(str(error)))
        self.open("/")

    def open(self, path: str) -> None:
        """Opens a page of the arena, and waits until it has heard from its server."""
        self.tab.goto(self.url + path)
        self.expect(self.tab.get_by_role("tab").first).to_be_visible()
        self.expect(self.tab.locator(BOX)).not_to_have_attribute("placeholder", WAITING)

    def say(self, text: str) -> None:
        box = self.tab.locator(BOX)
        self.expect(box).to_be_enabled()
        send(box, text)

    def answers(self) -> Any:
        return self.tab.locator(".message.bot:visible")

    def button(self, name: str) -> Any:
        return self.tab.get_by_role("button", name=name, exact=True).locator("visible=true")

    def see(self, text: str) -> None:
        self.expect(self.tab.get_by_text(text).locator("visible=true").first).to_be_visible()

    def shoot(self, name: str) -> None:
        if SHOTS:
            self.tab.screenshot(path=Path(SHOTS) / f"{name}.png")

    def vote(self, choice: str) -> None:
        """Votes once that is possible, and waits until the vote is saved."""
        self.expect(self.button(choice)).to_be_enabled(timeout=3 * LIMIT_MS)
        self.button(choice).click()
        self.see(WORDS.thanks)

    def begin_new_round(self) -> None:
        self.button(WORDS.new_round).click()
        self.expect(self.answers()).to_have_count(0)
