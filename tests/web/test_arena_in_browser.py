"""The arena in a real browser, as a new reader would use it."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from arena_reader import BOX, Reader
from real_browser import joining, open_browser

from fastchat.web.leaderboard import leaderboard_words
from fastchat.web.texts import load_texts

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

WORDS = load_texts().arena
CHAT = load_texts().chat
CHAT_PARAMETERS = load_texts().page.parameters
MODELS = ("lion-7b", "tiger-7b", "bear-7b")


@pytest.fixture
def browser() -> Iterator[Any]:
    yield from open_browser()


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
        reader.expect(reader.answers()).to_have_count(2)
        for i in range(2):
            reader.expect(reader.answers().nth(i)).to_contain_text(f"question {number}")
        labels = reader.tab.locator(".labels:visible")
        reader.expect(labels).to_have_text(re.compile(r"^Model A\s*Model B$"))
        reader.expect(reader.button(choice)).to_be_enabled()
        if number == 0:
            reader.shoot("battle")
        reader.vote(choice)
        reader.expect(labels).to_contain_text(re.compile("|".join(MODELS)))
        reader.expect(reader.tab.locator(BOX)).to_be_disabled()
        if number == 0:
            reader.shoot("battle-voted")
        reader.expect(reader.button(WORDS.new_round)).to_be_enabled()
        reader.begin_new_round()
        reader.see(WORDS.greeting_battle)
    reader.tab.get_by_role("tab", name=WORDS.tab_leaderboard).click()
    reader.see("10 votes")
    rated = reader.tab.locator(".ratings tbody tr td.model").all_inner_texts()
    assert set(rated) <= set(MODELS)
    reader.shoot("board")
    words = leaderboard_words()
    reader.tab.get_by_role("tab", name=words.tab_overview).click()
    reader.see(words.overview)
    best = reader.tab.locator(".overview .best:visible")
    reader.expect(best.first).to_be_visible()
    reader.tab.get_by_text(words.by_rating, exact=True).locator("visible=true").first.click()
    reader.expect(best.first).to_have_text(re.compile(r"^\d{3,4}$"))
    reader.shoot("overview")
    foreign = [u for u in reader.requests if not u.startswith((arena, "data:", "blob:"))]
    assert foreign == []
    assert reader.failures == []


def test_models_are_compared_by_name_and_asked_alone(browser: Any, arena: str, fake: Any) -> None:
    reader = Reader(browser.new_context(viewport={"width": 1280, "height": 800}), arena)
    reader.open("/?compare")
    reader.see(WORDS.greeting_named)
    reader.expect(reader.tab.locator(".picker input:visible").nth(1)).not_to_have_value("")
    reader.say("hello both")
    reader.expect(reader.answers()).to_have_count(2)
    asked = {request["model"] for request in fake.requests}
    assert len(asked) == 2, "the two sides begin with different models"
    reader.expect(reader.button(WORDS.tie)).to_be_enabled()
    reader.button(WORDS.tie).click()
    reader.see(WORDS.thanks)
    reader.shoot("named")
    reader.say("and on")
    reader.expect(reader.answers()).to_have_count(4)
    reader.open(f"/?direct&model={MODELS[1]}")
    reader.see(WORDS.greeting_direct)
    reader.say("hello you")
    reader.expect(reader.answers()).to_have_count(1)
    assert fake.requests[-1]["model"] == MODELS[1]
    reader.expect(reader.button(WORDS.upvote)).to_be_enabled()
    reader.button(WORDS.upvote).click()
    reader.see(WORDS.thanks)
    reader.shoot("direct")
    assert reader.failures == []


def test_a_model_that_comes_later_stands_in_the_pickers(
    browser: Any, serve_arena: Callable[..., str], fake: Any, all_done: Callable[[], None]
) -> None:
    fake.models = [{"id": MODELS[0]}]
    page = serve_arena()
    reader = Reader(browser.new_context(viewport={"width": 1280, "height": 800}), page)
    reader.open("/?compare")
    first, second = (reader.tab.locator(".picker input:visible").nth(i) for i in range(2))
    reader.expect(first).to_have_value(MODELS[0])
    fake.models = [{"id": MODELS[0]}, {"id": MODELS[2]}]
    option = reader.tab.get_by_role("option", name=MODELS[2])

    def was_chosen() -> bool:  # once the page's own look-up, without a reload, offers it
        second.click()
        if option.count():
            with joining(reader.tab, page, "named_clear"):
                option.click()
            return True
        reader.tab.keyboard.press("Escape")
        reader.tab.mouse.click(640, 500)
        return False

    fake.wait_until(was_chosen)
    reader.expect(second).to_have_value(MODELS[2])
    all_done()  # another model begins a new conversation, which a question must not overtake
    reader.say("hello both")
    reader.expect(reader.answers()).to_have_count(2)
    assert {request["model"] for request in fake.requests} == {MODELS[0], MODELS[2]}
    assert reader.failures == []


def test_a_battle_fits_a_phone_and_the_keyboard(browser: Any, arena: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    reader = Reader(context, arena)
    reader.see(WORDS.greeting_battle)
    reader.say("hello from a small screen")
    reader.expect(reader.answers()).to_have_count(2)
    reader.expect(reader.button(WORDS.left)).to_be_enabled()
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


ARABIC = """مرحبا، هذه إجابة باللغة العربية.

| a column | another one | a third one | a fourth one | a fifth one |
|---|---|---|---|---|
| some words | some words | some words | some words | some words |

```
a line of code that is much longer than a phone is wide, and that does not break
```
"""


def tab_until(reader: Reader, name: str) -> None:
    """Presses Tab until the control of that name has the focus."""
    names: list[str] = []
    for _ in range(60):
        reader.tab.keyboard.press("Tab")
        names.append(
            reader.tab.evaluate(
                """() => { const e = document.activeElement;
                   return (e.getAttribute('aria-label') || e.textContent || e.placeholder
                           || '').trim(); }"""
            )
        )
        if names[-1] == name:
            return
    raise AssertionError(f"{name} is not reached: {names}")


def test_a_round_by_the_keyboard_alone(browser: Any, arena: str) -> None:
    reader = Reader(browser.new_context(viewport={"width": 1280, "height": 800}), arena)
    reader.see(WORDS.greeting_battle)
    reader.expect(reader.tab.locator(BOX)).to_have_attribute("placeholder", WORDS.ask)
    keys = reader.tab.keyboard
    tab_until(reader, WORDS.ask)
    keys.type("first line")
    keys.press("Shift+Enter")
    keys.type("second line")
    keys.press("Enter")
    reader.expect(reader.answers()).to_have_count(2)
    reader.expect(reader.button(WORDS.tie)).to_be_enabled()
    tab_until(reader, WORDS.tie)
    outline = reader.tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "who has the focus is seen"
    keys.press("Enter")
    reader.see(WORDS.thanks)
    reader.expect(reader.tab.locator(BOX)).to_be_disabled()
    reader.expect(reader.button(WORDS.new_round)).to_be_enabled()
    tab_until(reader, WORDS.new_round)
    keys.press("Space")
    reader.expect(reader.answers()).to_have_count(0)
    tab_until(reader, WORDS.tab_battle)
    keys.press("ArrowRight")
    keys.press("Enter")
    tab_until(reader, WORDS.tab_leaderboard)
    keys.press("Enter")
    reader.see("1 votes")
    assert reader.failures == []


def test_what_is_wide_or_runs_from_the_right_stays_readable(
    browser: Any, arena: str, fake: Any
) -> None:
    fake.rich = ARABIC
    reader = Reader(browser.new_context(viewport={"width": 390, "height": 844}), arena)
    reader.say("show !rich")
    reader.expect(reader.button(WORDS.left)).to_be_enabled()
    answer = reader.answers().first
    boxes = {
        name: answer.locator(name).first.bounding_box() for name in ("p", "th", "table", "pre")
    }
    line = answer.locator("p").first.evaluate(
        """p => { const range = document.createRange(); range.selectNodeContents(p);
                  return range.getBoundingClientRect().right; }"""
    )
    assert boxes["p"] and boxes["th"] and boxes["table"] and boxes["pre"]
    assert line > boxes["p"]["x"] + boxes["p"]["width"] - 4, "Arabic begins at the right"
    assert boxes["th"]["height"] < 100, "words of a table are not cut into letters"
    for name in ("table", "pre"):
        assert boxes[name]["width"] <= 390, f"a wide {name} is pushed aside within the answer"
    assert reader.tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_parameters_of_the_arena_can_be_read_and_set(browser: Any, arena: str, fake: Any) -> None:
    for width in (390, 1280):
        context = browser.new_context(viewport={"width": width, "height": 844})
        reader = Reader(context, arena)
        reader.open("/?direct")
        reader.tab.get_by_role("button", name=CHAT_PARAMETERS).locator("visible=true").click()
        panel = reader.tab.locator(".parameters:visible")
        numbers = panel.locator("input[type=number]")
        sliders = panel.locator("input[type=range]")
        reader.expect(sliders.nth(2)).to_be_visible()
        edge = 0.0
        for i in range(3):
            for part in (numbers.nth(i), sliders.nth(i)):
                box = part.bounding_box()
                assert box and box["y"] >= edge, "each control lies below the one before it"
                edge = box["y"] + box["height"]
                assert box["x"] >= 0 and box["x"] + box["width"] <= width
        numbers.nth(0).fill("0.2")
        numbers.nth(0).press("Enter")
        reader.say("hello")
        reader.expect(reader.answers()).to_have_count(1)
        assert fake.requests[-1]["temperature"] == 0.2
        reader.shoot(f"parameters-{width}")
        context.close()
