"""Prompts that end open, closed, or within the last message."""

from typing import Any

import pytest

from fastchat.errors import UsageError
from fastchat.families.registry import registry
from fastchat.message import ChatOptions, Message, Slot
from fastchat.model.prompt_end import prompt_of
from fastchat.model.prompting import from_jinja, from_template
from tests.engine.conftest import make_tokenizer

TURNS = (
    Message(role="system", text="Be kind."),
    Message(role="user", text="Count to three."),
    Message(role="assistant", text="One, two,"),
)
TEMPLATES = [
    t.name for t in map(registry().template, registry().template_names) if t.layout != "remote"
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_is_gone_on_with_where_it_would_have_gone_on(name: str) -> None:
    template = registry().template(name)
    continued = prompt_of(template, TURNS, slot="continued")
    asked = prompt_of(template, TURNS[:-1], slot="open")
    assert continued.startswith(asked)
    assert continued.endswith("One, two,")
    if template.layout == "turns":
        # What a whole conversation holds up to there, the marks after the answer aside.
        closed = prompt_of(template, TURNS, slot="none")
        assert closed.startswith(continued)
        assert "One" not in closed[len(continued) :]


@pytest.mark.parametrize("turns", [(), TURNS[:2], (*TURNS[:2], Message(role="assistant", text=""))])
def test_there_must_be_an_answer_to_go_on_with(turns: tuple[Message, ...]) -> None:
    with pytest.raises(UsageError) as refused:
        prompt_of(registry().template("vicuna_v1.1"), turns, slot="continued")
    assert refused.value.param == "continue_final_message"


@pytest.mark.parametrize(
    ("slot", "end"),
    [
        ("open", "<u>Count to three.</u><a>One, two,</a><a>"),
        ("none", "<u>Count to three.</u><a>One, two,</a>"),
        ("continued", "<u>Count to three.</u><a>One, two,"),
    ],
)
@pytest.mark.parametrize("wants_parts", [False, True])
def test_chat_templates_end_likewise(slot: Slot, end: str, wants_parts: bool) -> None:
    content = "{{ m.content[0].text }}" if wants_parts else "{{ m.content }}"
    source = (
        "{% for m in messages %}{% set r = m.role[0] %}<{{ r }}>"
        + content
        + "</{{ r }}>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
    )
    tokenizer: Any = make_tokenizer()
    prompting = from_jinja(tokenizer, source, name="x")
    assert prompting.render(TURNS, ChatOptions(slot=slot)) == f"<s>Be kind.</s>{end}"


def test_a_chat_template_that_drops_an_answer_cannot_go_on_with_it() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    prompting = from_jinja(make_tokenizer(), source, name="x")
    with pytest.raises(UsageError, match="refuses"):
        prompting.render(TURNS, ChatOptions(slot="continued"))


def test_the_blank_before_an_answer_is_there_when_it_goes_on() -> None:
    prompting = from_template(registry().template("vicuna_v1.1"))
    text = prompting.render(TURNS, ChatOptions(slot="continued"))
    assert text.endswith("USER: Count to three. ASSISTANT: One, two,")
