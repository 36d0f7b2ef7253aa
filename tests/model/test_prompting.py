from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fastchat.families.registry import registry
from fastchat.message import Message
from fastchat.model import prompting
from fastchat.model.load import ModelSettings, load
from fastchat.model.prompting import from_template


@pytest.mark.parametrize(
    ("name", "lead"), [("vicuna_v1.1", " "), ("alpaca", " "), ("zephyr", ""), ("raw", "")]
)
def test_the_lead_of_a_template_is_the_blank_before_an_answer(name: str, lead: str) -> None:
    assert from_template(registry().template(name)).lead == lead


def test_the_lead_of_a_chat_template_is_found_by_rendering(checkpoint: Path) -> None:
    loaded: Any = load(ModelSettings(model_path=str(checkpoint), device="cpu"))
    assert loaded.prompting.lead == " "


@pytest.mark.parametrize("name", registry().template_names)
def test_every_template_with_a_text_can_prompt(name: str) -> None:
    template = registry().template(name)
    if template.layout == "remote":
        pytest.skip("a service without a prompt text")
    text = from_template(template).render([Message(role="user", text="hello")])
    assert "hello" in text and text.endswith(template.open)


def test_date_holes_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Fixed":
            return cls(2031, 12, 31, 23, 59, 59)

    monkeypatch.setattr(prompting, "datetime", Fixed)
    names = [
        n for n in registry().template_names if "{{current" in registry().template(n).system_message
    ]
    assert names
    for name in names:
        text = from_template(registry().template(name)).render([Message(role="user", text="x")])
        assert "{{current" not in text and "2031" in text
