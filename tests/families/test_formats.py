import pytest

from fastchat.errors import DataError
from fastchat.families.formats import (
    reasoning_format,
    reasoning_formats,
    tool_format,
    tool_formats,
)
from fastchat.families.registry import registry


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% if tools %}<tool_call></tool_call>", "hermes"),
        ("[AVAILABLE_TOOLS]{{ tools }}[TOOL_CALLS]", "mistral"),
        ("{{ tools }}[TOOL_CALLS]{{ name }}[ARGS]", "mistral-named"),
        ("{{ tools }}<|python_tag|>", "llama3"),
        ('reply with {"name": ..., "parameters": ...}', "llama3"),
        ("{{ messages }}", "json"),
    ],
)
def test_a_chat_template_tells_its_tool_format(template: str, name: str) -> None:
    assert tool_format(None, template).name == name


def test_a_family_names_a_format_where_no_template_tells_one() -> None:
    assert tool_format("hermes", "").name == "hermes"
    assert tool_format("hermes", "[TOOL_CALLS]").name == "mistral"
    assert reasoning_format("think", "") == reasoning_formats()["think"]
    assert reasoning_format(None, "plain") is None
    assert reasoning_format(None, "...[/THINK]") == reasoning_formats()["bracket-think"]
    with pytest.raises(DataError, match=r"there is no format 'other'; known are .*hermes"):
        tool_format("other", "")


def test_every_family_names_formats_that_exist() -> None:
    known = registry()
    for family in known.families.values():
        assert family.tools is None or family.tools in tool_formats()
        assert family.reasoning is None or family.reasoning in reasoning_formats()
    assert known.recognise("Qwen2.5-7B-Instruct").family.tools == "hermes"
