"""The page in a real browser: what a person sees and does."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from live import LIMIT_S
from real_browser import joining, new_tab, open_browser, send

from fastchat.web.models import Source
from fastchat.web.texts import load_texts

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

BOX = ".message textarea"
TEXTS = load_texts()


class Reader:
    """A person at the page, who also looks into the network log."""

    def __init__(self, context: Any, url: str) -> None:
        from playwright.sync_api import expect

        self.expect = expect
        self.tab = new_tab(context)
        self.requests: list[str] = []
        self.failures: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.failures.append(str(error)))
        self.url = url
        self.tab.goto(url)
        self.see(self.tab.locator(BOX))

    def see(self, what: Any) -> None:
        self.expect(what).to_be_visible()

    def enter(self, text: str) -> None:
        send(self.tab.locator(BOX), text)

    def say(self, text: str) -> None:
        """Asks, and waits until the question was taken."""
        self.enter(text)
        self.expect(self.tab.locator(BOX)).to_have_value("")

    @property
    def answers(self) -> Any:
        return self.tab.locator(".message.bot")

    def wait_for_answer(self, text: str | re.Pattern[str]) -> None:
        self.expect(self.answers.last).to_contain_text(text)

    def wait_until_done(self) -> None:
        self.see(self.tab.locator(".submit-button"))
        self.expect(self.button("Regenerate")).to_be_enabled()

    def regenerate(self, fake: Any) -> None:
        """Has the last question answered again, and sees the answer begin and end."""
        fake.holds = True
        self.button("Regenerate").click()
        self.see(self.tab.locator(".stop-button"))
        fake.holds = False
        self.wait_until_done()

    def button(self, name: str) -> Any:
        return self.tab.locator(".actions").get_by_role("button", name=name)


@pytest.fixture
def browser() -> Iterator[Any]:
    yield from open_browser()


@pytest.fixture
def page(serve_page: Callable[..., str], fake: Any) -> str:
    return serve_page(source=Source(api_url=fake.url))


@pytest.fixture
def reader(browser: Any, page: str) -> Reader:
    return Reader(browser.new_context(viewport={"width": 1280, "height": 800}), page)


def test_a_person_chats(reader: Reader, fake: Any, all_done: Callable[[], None]) -> None:
    reader.see(reader.tab.get_by_text(TEXTS.chat.greeting))
    assert reader.button("Regenerate").is_disabled()
    assert reader.button("Clear").is_disabled()

    reader.say("hello there")
    reader.wait_for_answer("parrot heard: hello there")
    reader.wait_until_done()

    reader.enter("   ")  # nothing to send: what was said stays on the page
    all_done()
    reader.say("say it again !rich")
    reader.see(reader.answers.last.locator("h1", has_text="Heading"))
    reader.expect(reader.answers).to_have_count(2)
    reader.see(reader.answers.last.locator("pre code .token").first)
    reader.see(reader.answers.last.locator(".katex-display"))
    reader.see(reader.answers.last.locator("table"))
    reader.see(reader.answers.last.get_by_role("button", name="copy").first)
    sent = fake.requests[-1]
    assert [m["role"] for m in sent["messages"]] == ["user", "assistant", "user"]
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (0.7, 1.0, 1024)

    reader.wait_until_done()
    reader.regenerate(fake)
    reader.wait_for_answer("Heading")
    assert len(fake.requests) == 3
    reader.expect(reader.answers).to_have_count(2)
    assert fake.requests[-1]["messages"] == sent["messages"]

    reader.button("Clear").click()
    reader.expect(reader.answers).to_have_count(0)
    reader.see(reader.tab.get_by_text(TEXTS.chat.greeting))

    reader.tab.get_by_text(TEXTS.chat.suggestions[0]).click()
    reader.wait_for_answer(f"parrot heard: {TEXTS.chat.suggestions[0]}")
    assert len(fake.requests[-1]["messages"]) == 1, "the cleared conversation is forgotten"

    foreign = [url for url in reader.requests if not url.startswith((reader.url, "data:", "blob:"))]
    assert foreign == []
    assert reader.failures == []


def test_an_answer_can_be_stopped(reader: Reader, fake: Any) -> None:
    reader.say("count !slow")
    reader.wait_for_answer(re.compile("5"))
    reader.tab.fill(BOX, "typed meanwhile")
    reader.tab.press(BOX, "Enter")
    reader.tab.locator(".stop-button").click()
    reader.see(reader.tab.get_by_text(TEXTS.notice.stopped))
    reader.wait_until_done()
    assert reader.tab.input_value(BOX) == "typed meanwhile", "a draft survives the answer"
    fake.wait_until(lambda: fake.given_up == 1)
    assert len(fake.requests) == 1
    reader.enter("typed meanwhile")
    reader.wait_for_answer("parrot heard: typed meanwhile")


def test_a_failed_answer_can_be_tried_again(reader: Reader, fake: Any) -> None:
    reader.say("try !break")
    reader.see(reader.tab.get_by_text("The model ran out of memory."))
    reader.regenerate(fake)
    assert len(fake.requests) == 2
    reader.expect(reader.tab.locator(".notices p")).to_contain_text("ran out of memory")
    reader.say("shift\nand enter")
    reader.wait_for_answer("parrot heard: shift")
    reader.expect(reader.tab.locator(".notices p")).to_have_count(0)


def test_thoughts_are_folded_away(reader: Reader) -> None:
    reader.say("12 + 7? !think")
    reader.wait_for_answer("It is 19.")
    reader.wait_until_done()
    title = reader.tab.get_by_text(TEXTS.chat.thinking)
    reader.see(title)
    reader.expect(reader.tab.get_by_text("Let me see.")).to_be_hidden()
    title.click()
    reader.see(reader.tab.get_by_text("Let me see."))


def test_leaving_the_page_ends_the_answer(reader: Reader, fake: Any) -> None:
    reader.say("!hang")
    reader.see(reader.tab.locator(".stop-button"))
    fake.wait_until(lambda: fake.open == 1)
    reader.tab.close()
    fake.wait_until(lambda: (fake.given_up, fake.open) == (1, 0))


def test_the_list_of_models_is_live(
    browser: Any, page: str, fake: Any, all_done: Callable[[], None]
) -> None:
    fake.models, later = [], fake.models
    reader = Reader(browser.new_context(), page)
    reader.see(reader.tab.get_by_text(TEXTS.empty.title))
    reader.see(reader.tab.get_by_text(TEXTS.empty.command))
    reader.enter("too early")
    reader.see(reader.tab.get_by_text(TEXTS.notice.no_model))
    assert reader.tab.input_value(BOX) == "too early"

    fake.models = later
    picker = reader.tab.get_by_label("Model", exact=True)
    reader.expect(picker).to_have_value("parrot")
    reader.see(reader.tab.get_by_text(TEXTS.chat.greeting))
    fake.models = [{"id": "cockatoo", "context_length": 512}, *later]
    reader.expect(reader.tab.locator(BOX)).to_have_attribute("placeholder", "Message parrot")
    picker.click()
    with joining(reader.tab, page, "clear"):
        reader.tab.get_by_role("option", name="cockatoo").click()
    all_done()  # another model begins a new conversation, which a question must not overtake
    reader.expect(reader.tab.locator(BOX)).to_have_attribute("placeholder", "Message cockatoo")
    reader.say("hello")
    reader.wait_for_answer("cockatoo heard: hello")
    assert fake.requests[-1]["max_tokens"] == 512, "no more than its context"
    fake.models = later
    picker.click()
    reader.see(reader.tab.get_by_role("option", name="parrot"))
    assert picker.input_value() == "cockatoo", "what was chosen stays chosen"


def test_a_model_can_be_named_in_the_address(browser: Any, page: str, fake: Any) -> None:
    fake.models = [{"id": "a"}, {"id": "parrot"}]
    reader = Reader(browser.new_context(), page + "/?model=parrot")
    picker = reader.tab.get_by_label("Model", exact=True)
    reader.expect(picker).to_have_value("parrot")


def test_nothing_that_is_written_runs(reader: Reader) -> None:
    reader.say("<img src=x onerror='window.pwned = 0'> !hostile")
    reader.wait_for_answer("The end.")
    reader.wait_until_done()
    shown = reader.answers.last
    for text in ("<script>window.pwned = 1</script>", "<svg onload=", "<iframe srcdoc="):
        assert text in shown.inner_text(), "what was written can be read"
    reader.expect(reader.tab.locator(".message.user").last).to_contain_text("<img src=x onerror")
    for link in shown.locator("a").all():
        assert (link.get_attribute("href") or "http").startswith("http")
        link.evaluate("link => { link.removeAttribute('target'); }")
    for link in shown.locator("a:not([href])").all():
        link.click()
    reader.tab.wait_for_timeout(500)
    assert reader.tab.evaluate("window.pwned") is None
    assert [url for url in reader.requests if not url.startswith((reader.url, "data:"))] == []


def test_a_draft_outlives_late_news_of_the_last_question(reader: Reader) -> None:
    held: list[Any] = []
    events = httpx.get(f"{reader.url}/config", timeout=LIMIT_S).json()["dependencies"]
    [follows] = [  # the phase of an answer, with buttons and message box
        event["id"]
        for event in events
        if event["targets"][0][1] == "change" and len(event["outputs"]) == 5
    ]

    def hold(route: Any) -> None:
        if held or json.loads(route.request.post_data)["fn_index"] != follows:
            route.continue_()
        else:
            held.append(route)  # what would have emptied the box at once

    reader.tab.route("**/queue/join*", hold)
    reader.enter("first")
    reader.wait_for_answer("parrot heard: first")
    while not held:
        reader.tab.wait_for_timeout(10)
    reader.tab.fill(BOX, "second")
    with reader.tab.expect_response(lambda response: "queue/join" in response.url):
        held.pop().continue_()
    reader.tab.unroute_all()
    reader.wait_until_done()
    assert reader.tab.input_value(BOX) == "second"
    reader.enter("second")
    reader.wait_for_answer("parrot heard: second")
    reader.expect(reader.tab.locator(BOX)).to_have_value("")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_whole_page(browser: Any, page: str, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True
    )
    reader = Reader(context, page)
    reader.see(reader.tab.get_by_text(TEXTS.chat.greeting))

    fits = (
        "() => document.documentElement.scrollWidth <= innerWidth"
        " && document.documentElement.scrollHeight <= innerHeight"
    )
    reader.tab.wait_for_function(fits)
    reader.say("x" * 400)
    reader.wait_for_answer("parrot heard")
    reader.wait_until_done()
    reader.say("!rich")
    reader.see(reader.answers.last.locator("table"))
    reader.wait_until_done()
    reader.tab.get_by_role("button", name=TEXTS.page.parameters).click()
    reader.see(reader.tab.get_by_text("Top P"))
    reader.tab.wait_for_function(fits)
    for element in (BOX, ".submit-button", ".picker input", "[data-theme-switch]"):
        box = reader.tab.locator(element).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, element


def test_a_phone_shows_how_to_start_a_model(browser: Any, page: str, fake: Any) -> None:
    fake.models = []
    reader = Reader(browser.new_context(viewport={"width": 390, "height": 844}), page)
    command = reader.tab.get_by_text(TEXTS.empty.command)
    reader.see(command)
    box = command.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert command.evaluate("it => it.scrollWidth <= it.parentElement.clientWidth")


def test_light_and_dark_follow_the_system_and_the_switch(browser: Any, page: str) -> None:
    context = browser.new_context(color_scheme="dark")
    reader = Reader(context, page)
    body = reader.tab.locator("body")

    def wait_for_brightness(bounds: str) -> None:
        colours = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)"
        reader.tab.wait_for_function(f"{colours}.reduce((sum, x) => sum + Number(x), 0) {bounds}")

    reader.expect(body).to_have_class(re.compile(r"\bdark\b"))
    wait_for_brightness("< 200")
    # The page's own script, which listens to the switch, comes after what it is about.
    reader.tab.wait_for_function("document.documentElement.style.colorScheme")
    reader.tab.locator("[data-theme-switch]").click()
    reader.expect(body).not_to_have_class(re.compile(r"\bdark\b"))
    wait_for_brightness("> 600")
    reader.tab.reload()
    reader.see(reader.tab.locator(BOX))
    reader.expect(body).not_to_have_class(re.compile(r"\bdark\b"))


def test_terms_come_before_the_first_word(
    browser: Any, serve_page: Callable[..., str], fake: Any
) -> None:
    page = serve_page(source=Source(api_url=fake.url), show_terms=True)
    reader = Reader(browser.new_context(), page)
    reader.see(reader.tab.get_by_role("dialog"))
    reader.tab.get_by_role("button", name=TEXTS.page.terms_agree).click()
    reader.say("now")
    reader.wait_for_answer("parrot heard: now")
