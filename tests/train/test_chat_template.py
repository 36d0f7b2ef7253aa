"""Templates as Jinja: the ids are those of training, or there is no Jinja text."""

from pathlib import Path

import pytest

from fastchat.families.registry import registry
from fastchat.message import Message
from fastchat.train.chat_template import chat_template_for, jinja_text, speaks

TALK = [
    Message(role="user", text="Which 'way'?"),
    Message(role="assistant", text='Left\n"now" </s>'),
    Message(role="user", text=" 😀 "),
]


@pytest.mark.parametrize(
    "name",
    ["vicuna_v1.1", "llama-2", "Yi-34b-chat", "qwen-7b-chat", "zero_shot", "mistral", "gemma"],
)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_jinja_text_writes_what_the_template_writes(name: str, system: str | None) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = registry().template(name)
    talk = [Message(role="system", text=system), *TALK] if system else TALK
    [text], _ = render_jinja_template(
        [[{"role": message.role, "content": message.text} for message in talk]],
        chat_template=jinja_text(template),
        add_generation_prompt=True,
    )
    assert text == template.prompt(talk)


def test_the_first_mark_is_part_of_it_where_the_tokenizer_adds_one(tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    template = registry().template("vicuna_v1.1")
    jinja = chat_template_for(tokenizer, template)
    assert jinja is not None and "bos_token" in jinja
    assert speaks(tokenizer, jinja, template)
    assert not speaks(tokenizer, jinja_text(template), template)
    assert not speaks(tokenizer, None, template)
    assert not speaks(tokenizer, "{{ raise_exception('no') }}", template)


def test_both_tokenizers_of_the_vectors_get_one(shared: Path) -> None:
    from transformers import AutoTokenizer

    template = registry().template("vicuna_v1.1")
    for kind in ("tok_llama", "tok_bytebpe"):
        tokenizer = AutoTokenizer.from_pretrained(shared / "spec" / "vectors" / kind)
        assert chat_template_for(tokenizer, template) is not None


def test_templates_of_irregular_layout_get_none(tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    assert chat_template_for(tokenizer, registry().template("yuan2")) is None
