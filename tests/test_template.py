import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fastchat.errors import DataError, UsageError
from fastchat.families.registry import registry
from fastchat.message import Message
from fastchat.template import Segment, Template

VECTORS = Path(__file__).parent / "vectors" / "templates"
PROMPTS: dict[str, dict[str, str]] = {
    name: prompts
    for path in sorted(VECTORS.glob("*.json"))
    for name, prompts in json.loads(path.read_text("utf-8")).items()
}
"""Expected prompts by template: with its own system message, an empty one, and this one."""
CUSTOM = "You are a test system."


def turns(*texts: str) -> list[Message]:
    """Messages of user and assistant in turn."""
    return [
        Message(role="assistant" if i % 2 else "user", text=text) for i, text in enumerate(texts)
    ]


def system(text: str) -> Message:
    return Message(role="system", text=text)


CHAT = turns("Hello!", "Hi!", "How are you?")


def plain(**fields: Any) -> Template:
    """A template of our own, with these fields instead of its usual ones."""
    usual: dict[str, Any] = {
        "name": "plain",
        "system": "{system}\n",
        "user": ("Q: ", "\n"),
        "assistant": ("A: ", "</s>"),
        "open": "A:",
    }
    return Template(**usual | fields)


def test_every_template_has_expected_prompts() -> None:
    assert set(registry().template_names) == {*PROMPTS, "yandexgpt"}
    assert len(PROMPTS) == 101


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_equals_the_published_one(name: str) -> None:
    template = registry().template(name)
    # The demonstration of one_shot is our own, so the vectors leave it out.
    with_examples = name != "one_shot"

    def prompt(*before: Message) -> str:
        return template.prompt([*before, *CHAT], with_examples=with_examples)

    expected = PROMPTS[name]
    assert prompt(system("")) == expected["empty"]
    assert prompt(system(CUSTOM)) == expected["custom"]
    if "own" in expected:
        assert prompt() == expected["own"]


@pytest.mark.parametrize("name", PROMPTS)
def test_a_model_learns_to_continue_what_it_is_asked(name: str) -> None:
    """The open prompt and the learned part are the beginning of the finished conversation."""
    template = registry().template(name)
    asked = template.prompt(CHAT)
    segments = template.render([*CHAT, Message(role="assistant", text="Fine.")])
    learned = [segment for segment in segments if segment.learned]
    assert [segment.role for segment in learned] == ["assistant"] * len(learned)
    assert "Fine." in learned[-1].text
    if template.layout == "turns":
        finished = "".join(segment.text for segment in segments)
        assert finished.startswith(asked + learned[-1].text)
        assert len(learned) == 2


def test_a_remote_service_has_no_prompt() -> None:
    with pytest.raises(UsageError, match="'yandexgpt' belongs to a remote service"):
        registry().template("yandexgpt").prompt(CHAT)


def test_answers_are_learned_from_the_blank_to_the_closing_mark() -> None:
    segments = registry().template("vicuna_v1.1").render([system("S."), *turns("Hi", "Yes", "Go")])
    assert segments == [
        Segment("S. ", "system", False),
        Segment("USER: Hi ", "user", False),
        Segment("ASSISTANT:", "assistant", False),
        Segment(" Yes</s>", "assistant", True),
        Segment("USER: Go ", "user", False),
    ]


def test_what_only_parts_two_turns_is_not_learned() -> None:
    segments = registry().template("llama-2").render(turns("Hi", "Yes", "Go", "No"))
    assert [segment.text for segment in segments if segment.learned] == [" Yes </s>", " No </s>"]
    assert segments[4] == Segment("<s>", "assistant", False)


def test_examples_precede_every_conversation_and_are_not_learned() -> None:
    template = plain(examples=(("one?", "1"),))
    segments = template.render(turns("two?", "2"))
    assert "".join(x.text for x in segments) == "Q: one?\nA: 1</s>Q: two?\nA: 2</s>"
    assert [x.text for x in segments if x.learned] == [" 2</s>"]
    assert template.prompt(turns("two?"), with_examples=False) == "Q: two?\nA:"


def test_an_empty_answer_at_the_end_is_the_open_slot() -> None:
    template = plain()
    assert template.prompt(turns("a", ""), open_slot=False) == "Q: a\nA:"
    assert template.prompt(turns("a", ""), open_slot=True) == "Q: a\nA:"
    assert template.prompt(turns("a", "b"), open_slot=False) == "Q: a\nA: b</s>"


def test_an_empty_answer_in_the_middle_is_an_ended_one() -> None:
    assert plain().prompt(turns("a", "", "b")) == "Q: a\nA: </s>Q: b\nA:"


def test_system_messages_are_joined_wherever_they_stand() -> None:
    messages = [system("One."), *turns("a", "b"), system("Two."), *turns("c")]
    assert plain().prompt(messages) == "One.\nTwo.\nQ: a\nA: b</s>Q: c\nA:"


def test_texts_that_look_like_holes_stay_as_they_are() -> None:
    text = "{system} {round} {{currentDateTime}} {0} \\n %s"
    prompt = plain(user=("[{round}] ", "\n")).prompt(
        [system(text), *turns(text)], now=datetime(2024, 7, 1)
    )
    assert prompt == f"{text}\n[0] {text}\nA:"


def test_rounds_are_counted_by_the_users_messages() -> None:
    template = plain(user=("[{round}] ", "\n"), first_round=1)
    assert template.prompt(turns("a", "b", "c")) == "[1] a\nA: b</s>[2] c\nA:"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("as_is", "Q:  a\r\n\r\nb \nA:"),
        ("strip", "Q: a\r\n\r\nb\nA:"),
        ("fold_newlines", "Q:  a\nb \nA:"),
    ],
)
def test_text_rules(rule: str, expected: str) -> None:
    assert plain(text=rule).prompt(turns(" a\r\n\r\nb ")) == expected


def test_date_holes_are_filled_in_the_templates_own_system_message_only() -> None:
    own = "{{currentDateTime}} {{currentDateTimev2}} {{currentDateTimev3}}"
    template, now = plain(system_message=own), datetime(2024, 7, 1)
    assert template.prompt([], now=now) == "2024-07-01 01 Jul 2024 July 2024\nA:"
    assert template.prompt([]) == f"{own}\nA:"
    assert template.prompt([system(own)], now=now) == f"{own}\nA:"


def test_a_picture_is_a_mark_before_the_text() -> None:
    message = Message(role="user", text="What?", images=("data:a", "data:b"))
    assert plain().prompt([message]) == "Q: $$<image>$$$$<image>$$What?\nA:"
    assert plain(image="").prompt([message]) == "Q: What?\nA:"


def test_a_conversation_with_pictures_may_have_its_own_system_message() -> None:
    template = plain(system_message="Text.", system_message_vision="Pictures.")
    message = Message(role="user", text="?", images=("data:a",))
    assert template.prompt([message]).startswith("Pictures.\n")
    assert template.prompt(turns("?")).startswith("Text.\n")


def test_joined_turns_have_marks_between_them_and_one_at_the_end() -> None:
    template = registry().template("yuan2")
    assert template.prompt(turns("in", "an", "on")) == "in<n>an<n>on<sep>"
    assert template.prompt(turns("in", "an"), open_slot=False) == "in<n>an<sep>"
    assert template.prompt([]) == "<sep>"


def test_last_turns_leave_the_earlier_ones_out() -> None:
    template = registry().template("cllm")
    assert template.prompt([system("S."), *CHAT]) == "S. USER: How are you? ASSISTANT:"


def test_a_role_without_a_place_is_refused_with_a_remedy() -> None:
    with pytest.raises(UsageError, match="no place for a message of role 'tool'; use a model"):
        plain().prompt([*turns("a"), Message(role="tool", text="3")])


def test_an_open_slot_that_the_answer_does_not_continue_is_refused() -> None:
    with pytest.raises(DataError, match="does not continue open = 'Bot:'"):
        plain(open="Bot:")
    with pytest.raises(DataError, match="two or three strings"):
        plain(assistant=("A:",))
