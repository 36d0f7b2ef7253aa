"""Chromium as tests drive it: how it is started, how long it may take, how a question is sent."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LIMIT_MS = 180_000
"""For what must happen; a machine that is short of time may take long over it."""
AGAIN_MS = 5_000
"""After so long without a request a key is pressed again."""
_LOOK_MS = 25


def open_browser() -> Iterator[Any]:
    """A browser for the tests; it is closed in the end."""
    if not CHROMIUM.exists():
        pytest.skip("there is no chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    sync_api.expect.set_options(timeout=LIMIT_MS)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS, timeout=LIMIT_MS
        )
        yield browser
        browser.close()


def new_tab(context: Any) -> Any:
    """A tab of `context` that waits as long as a slow machine needs."""
    context.set_default_timeout(LIMIT_MS)
    return context.new_page()


def until_sent(tab: Any, act: Callable[[], None], is_meant: Callable[[Any], bool]) -> None:
    """Does `act` until the page has told its server of it, by an event that `is_meant`.

    The page takes no key before it listens, nor while the end of the last answer is on its way
    to it; a person would press the key again. What was sent is not sent again.
    """
    sent: list[Any] = []

    def note(request: Any) -> None:
        if "/queue/join" in request.url and is_meant(json.loads(request.post_data or "{}")):
            sent.append(request)

    tab.on("request", note)
    for _ in range(LIMIT_MS // AGAIN_MS):
        act()
        for _ in range(AGAIN_MS // _LOOK_MS):
            if sent:
                tab.remove_listener("request", note)
                return
            tab.wait_for_timeout(_LOOK_MS)
    raise AssertionError("the page told its server nothing of it")


def send(box: Any, text: str) -> None:
    """Writes `text` into the message box, and presses Enter until the page has sent it."""

    def is_meant(body: Any) -> bool:
        values = body.get("data") or []
        return text in [v.get("text") if isinstance(v, dict) else v for v in values]

    box.fill(text)
    until_sent(box.page, lambda: box.press("Enter"), is_meant)


def joining(tab: Any, url: str, api_name: str) -> AbstractContextManager[Any]:
    """Ends once the page at `url` has told its server of the event of that name."""
    events = httpx.get(f"{url}/config", timeout=LIMIT_MS / 1000).json()["dependencies"]
    [wanted] = [event["id"] for event in events if event["api_name"] == api_name]

    def is_told(response: Any) -> bool:
        joins = "/queue/join" in response.url
        return joins and json.loads(response.request.post_data)["fn_index"] == wanted

    return tab.expect_response(is_told)
