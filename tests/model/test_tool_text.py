from typing import Any

import pytest

from fastchat.families.formats import PLAIN_JSON, tool_formats
from fastchat.families.registry import Family, registry
from fastchat.message import ChatOptions, Message, ToolCall
from fastchat.model.prompting import from_jinja, from_template
from fastchat.model.tool_text import introduction, plain_messages, written
from tests.engine.conftest import make_tokenizer

TOOL = {
    "type": "function",
    "function": {"name": "clock", "description": "Now.", "parameters": {"type": "object"}},
}
CALL = ToolCall(id="c1", name="clock", arguments='{"zone": "UTC"}')
TURNS = (
    Message(role="user", text="What time is it?"),
    Message(role="assistant", text="", tool_calls=(CALL,)),
    Message(role="tool", text="12:00", tool_call_id="c1"),
    Message(role="tool", text="noon", name="clock"),
)


@pytest.mark.parametrize("name", tool_formats())
def test_tools_are_told_in_the_words_of_the_format(name: str) -> None:
    form = tool_formats()[name]
    text = introduction((TOOL,), form)
    assert '"name": "clock"' in text and "Now." in text
    assert form.end in text
    assert (form.begin if not form.may_be_bare else form.arguments) in text


def test_calls_and_results_become_plain_turns() -> None:
    plain = plain_messages(TURNS, (TOOL,), PLAIN_JSON, system="Be kind.")
    assert [m.role for m in plain] == ["system", "user", "assistant", "user"]
    assert plain[0].text.startswith("Be kind.\n\nYou can call functions.")
    assert plain[2].text == '{"name": "clock", "arguments": {"zone": "UTC"}}'
    assert plain[3].text == (
        "Result of the function clock:\n12:00\n\nResult of the function clock:\nnoon"
    )


def test_a_conversation_without_tools_stays_as_it_is() -> None:
    turns = [Message(role="user", text="hi")]
    assert plain_messages(turns, (), PLAIN_JSON, system="Be kind.") == turns


def test_the_own_system_text_of_a_template_stays() -> None:
    template = registry().template("vicuna_v1.1")
    text = from_template(template).render(TURNS, ChatOptions(tools=(TOOL,)))
    assert text.startswith(template.system_message)
    assert text.index("You can call functions.") < text.index("What time is it?")
    assert text.endswith(template.open)


def test_a_chat_template_gets_what_it_reads() -> None:
    tokenizer: Any = make_tokenizer()
    source = (
        "{{ tools | length }} {{ flag }} {% for m in messages %}"
        "{% for c in m.tool_calls %}{{ c.id }} {{ c.function.arguments.zone }}{% endfor %}"
        "{{ m.tool_call_id }} {{ m.name }} {{ m.reasoning_content }}\n{% endfor %}"
    )
    prompting = from_jinja(tokenizer, source, name="x")
    assert prompting.variables == {"flag"}
    turns = (*TURNS[:3], Message(role="assistant", text="", reasoning="hm"))
    text = prompting.render(turns, ChatOptions(tools=(TOOL,), template_kwargs={"flag": "up"}))
    assert text.split() == ["1", "up", "c1", "UTC", "c1", "clock", "hm"]


def test_a_template_of_ours_follows_its_family() -> None:
    family = Family(name="q", tools="hermes", reasoning="think")
    prompting = from_template(registry().template("qwen-7b-chat"), family)
    assert prompting.tools.name == "hermes"
    assert prompting.reasoning is not None and prompting.reasoning.open == "<think>"
    text = prompting.render(TURNS, ChatOptions(tools=(TOOL,)))
    assert f"<|im_start|>assistant\n{written((CALL,), prompting.tools)}<|im_end|>" in text


def turns_of(name: str) -> str:
    """A chat template that writes calls in one of the shapes that models' own have."""
    call = "{{ c.function.name }} {{ %s }}"
    shapes = {
        "object": call % "c.function.arguments | tojson",
        "text": call % "'' + c.function.arguments",
        "printed": call % "c.function.arguments",
    }
    inner = f"{{% for c in m.tool_calls %}}{shapes[name]}{{% endfor %}}"
    return (
        "{% for m in messages %}{{ m.role }}: "
        f"{{% if m.content is not defined %}}{inner}{{% else %}}{{{{ m.content }}}}{{% endif %}}"
        "\n{% endfor %}"
    )


@pytest.mark.parametrize("shape", ["object", "text", "printed"])
def test_calls_reach_a_template_in_the_shape_that_it_reads(shape: str) -> None:
    """As DeepSeek's: calls are written where there is no content, tools are not read."""
    source = turns_of(shape) + "{# <｜tool▁calls▁begin｜><｜tool▁sep｜> #}"
    prompting = from_jinja(make_tokenizer(), source, name="x")
    assert prompting.tools.name == "deepseek-v31"
    text = prompting.render(TURNS, ChatOptions(tools=(TOOL,)))
    assert 'assistant: clock {"zone": "UTC"}' in text
    assert "tool: 12:00" in text
    assert text.startswith("system: You can call functions.")
    assert written((CALL,), prompting.tools).split(CALL.arguments)[0][:20] in text


def test_marks_in_brackets_are_tokens_whatever_the_tokenizer_says() -> None:
    tokenizer: Any = make_tokenizer()
    tokenizer.add_tokens(["<tool_call>", "<|x|>"])
    tokenizer.add_tokens(["</tool_call>"], special_tokens=True)
    prompting = from_jinja(tokenizer, "{{ tools }}<tool_call></tool_call>", name="x")
    assert prompting.special_ids == {"<tool_call>": 259, "</tool_call>": 261}
