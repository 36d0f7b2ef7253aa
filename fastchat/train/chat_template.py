"""A template as the Jinja text that tokenizers carry, checked against the ids it must give.

A trained folder brings its chat template along, so that any program that reads the folder
writes conversations the way they were learned.
"""

import json
from typing import TYPE_CHECKING, Any

from fastchat.message import Message
from fastchat.train.examples import Labeller

if TYPE_CHECKING:
    from fastchat.template import Template

PROBE = (
    Message(role="user", text="Which way?"),
    Message(role="assistant", text="To the left, then on."),
    Message(role="user", text="And after that?"),
)
"""A conversation whose ids tell whether two ways of writing it agree."""


def chat_template_for(tokenizer: Any, template: "Template") -> str | None:
    """The Jinja text whose ids equal those of training, or None where there is none.

    The text includes the mark that begins a text where the tokenizer adds one by itself. A
    Llama tokenizer without its legacy behaviour writes no blank after that mark when the mark
    is part of the text, so a blank is tried there too.
    """
    if template.layout != "turns":
        return None
    for begin in ("", "{{- bos_token }}", "{{- bos_token + ' ' }}"):
        jinja = begin + jinja_text(template)
        if (tokenizer.bos_token or not begin) and speaks(tokenizer, jinja, template):
            return jinja
    return None


def speaks(tokenizer: Any, jinja: str | None, template: "Template") -> bool:
    """Whether a chat template gives the ids that training with `template` gives."""
    if not isinstance(jinja, str):
        return False
    from jinja2 import TemplateError

    labeller = Labeller(
        tokenizer, lambda messages: template.render(messages, open_slot=True), max_length=1 << 30
    )
    talks = [PROBE, (Message(role="system", text="Answer briefly."), *PROBE)]
    try:
        return all(
            _ids(tokenizer, jinja, talk) == example.input_ids.tolist()
            for talk, example in zip(talks, labeller.label(talks), strict=True)
        )
    except TemplateError:
        return False


def jinja_text(template: "Template") -> str:
    """The layout of a template of plain turns as Jinja, without a mark of the tokenizer's."""
    text = "message['content'] | trim" if template.text == "strip" else "message['content']"
    with_system = " + ".join(_around(template.system, "{system}", "system"))
    before, after, *gap = template.assistant
    first = template.first_user or template.user
    user = (
        "{{- (FIRST_BEFORE if loop.index0 == turns.start else BEFORE) + TEXT"
        " + (FIRST_AFTER if loop.index0 == turns.start else AFTER) }}"
    )
    if first == template.user:
        user = "{{- BEFORE + TEXT + AFTER }}"
    for hole, value in (
        ("FIRST_BEFORE", first[0]),
        ("FIRST_AFTER", first[1]),
        ("BEFORE", template.user[0]),
        ("AFTER", template.user[1]),
    ):
        user = user.replace(hole, _quoted(value))
    return (
        f"{{%- set system = {_quoted(template.system_message)} %}}"
        "{%- set turns = namespace(start=0) %}"
        "{%- if messages and messages[0]['role'] == 'system' %}"
        "{%- set system = messages[0]['content'] %}{%- set turns.start = 1 %}{%- endif %}"
        f"{{{{- ({with_system}) if system else {_quoted(template.system_empty)} }}}}"
        "{%- for message in messages %}"
        "{%- if message['role'] == 'user' %}"
        + user.replace("TEXT", f"({text})")
        + "{%- elif message['role'] == 'assistant' %}"
        f"{{{{- {_quoted(before)} + ({text}) + {_quoted(after)} }}}}"
        + (
            f"{{%- if not loop.last %}}{{{{- {_quoted(''.join(gap))} }}}}{{%- endif %}}"
            if gap
            else ""
        )
        + "{%- elif not loop.first %}"
        "{{- raise_exception('a message of role ' + message['role'] + ' has no place here') }}"
        "{%- endif %}{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{- {_quoted(template.open)} }}}}{{%- endif %}}"
    )


def _around(text: str, hole: str, name: str) -> list[str]:
    """The parts of a Jinja sum that stand for `text` with the variable `name` in its hole."""
    before, found, after = text.partition(hole)
    return [_quoted(before), name, _quoted(after)] if found else [_quoted(text)]


def _quoted(text: str) -> str:
    """A Jinja string."""
    return "''" if not text else json.dumps(text, ensure_ascii=False)


def _ids(tokenizer: Any, jinja: str, talk: tuple[Message, ...]) -> list[int]:
    """The ids that a chat template gives for a conversation."""
    return tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.text} for message in talk],
        chat_template=jinja,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
