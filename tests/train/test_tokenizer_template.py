"""A tokenizer's own chat template: the ids of ours, the mask of ours, or a refusal."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.records import Record, parse_record
from fastchat.errors import UsageError
from fastchat.families.registry import registry
from fastchat.message import Message
from fastchat.train.chat_template import jinja_text
from fastchat.train.examples import IGNORED, Example, Labeller, messages_of
from fastchat.train.tokenizer_template import TokenizerTemplate, read_chat_template

TALK = [
    Message(role="system", text="Be brief </s>."),
    Message(role="user", text="red <s> one"),
    Message(role="assistant", text="blue </s> two"),
    Message(role="user", text="assistant: green"),
    Message(role="assistant", text=" river "),
]
CHATML = (
    "{% for m in messages %}{{ '<s>' + m.role + '\\n' + m.content + '</s>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<s>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
    "{{ '</s>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
)


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def labelled(tokenizer: Any, jinja: str, talk: Sequence[Message] = TALK) -> Example:
    render = TokenizerTemplate(tokenizer, jinja).render
    [example] = Labeller(tokenizer, render, max_length=500).label([talk])
    return example


def learned(tokenizer: Any, example: Example) -> list[str]:
    stretches: list[list[int]] = [[]]
    for label in example.labels.tolist():
        if label == IGNORED:
            stretches.append([])
        else:
            stretches[-1].append(label)
    return [tokenizer.decode(ids) for ids in stretches if ids]


@pytest.mark.parametrize("jinja", [CHATML, MARKED])
def test_replies_are_learned_up_to_their_end_mark(tiny_llama: Path, jinja: str) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    example = labelled(tokenizer, jinja)
    assert learned(tokenizer, example) == ["blue </s> two</s>", " river </s>"]
    # Five messages: what they say of end marks stays letters.
    assert example.input_ids.tolist().count(tokenizer.eos_token_id) == 5


@pytest.mark.parametrize("kind", ["tok_llama", "tok_bytebpe"])
@pytest.mark.parametrize("bos", ["", "{{- bos_token }}"])
def test_the_vectors_are_exact_through_jinja_as_well(shared: Path, kind: str, bos: str) -> None:
    folder = shared / "spec" / "vectors"
    tokenizer = tokenizer_of(folder / kind)
    jinja = bos + jinja_text(registry().template("vicuna_v1.1"))
    cases = json.loads((folder / "masking_vectors.json").read_text("utf-8"))["cases"]
    mine = [case for case in cases if case["tokenizer"] == kind]
    assert len(mine) == 3
    for case in mine:
        given = parse_record({"id": "x", "conversations": case["conversations"]}, where="x")
        assert isinstance(given, Record)
        talk = messages_of(given)
        assert not isinstance(talk, str)
        example = labelled(tokenizer, jinja, talk)
        assert example.input_ids.tolist() == case["expected"]["input_ids"], case["name"]
        assert example.labels.tolist() == case["expected"]["labels"], case["name"]


@pytest.mark.parametrize("name", ["llama-2", "qwen-7b-chat", "mistral", "zero_shot"])
def test_a_template_of_ours_as_jinja_gives_the_same_mask(tiny_llama: Path, name: str) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    template = registry().template(name)
    talk = [TALK[1], TALK[2], TALK[3], Message(role="assistant", text="river")]
    [ours] = Labeller(tokenizer, template.render, max_length=500).label([talk])
    theirs = labelled(tokenizer, jinja_text(template), talk)
    # What only parts two rounds does not follow the last one in Jinja.
    assert theirs.input_ids.tolist() == ours.input_ids.tolist()[: len(theirs.input_ids)]
    assert learned(tokenizer, theirs)[-1].startswith(learned(tokenizer, ours)[-1].rstrip()[:5])


REWRITES = (
    "{% for m in messages %}{{ m.role + ': ' }}{% if loop.last %}{{ 'last ' }}{% endif %}"
    "{{ m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("jinja", "said"),
    [
        (REWRITES, "writes earlier messages otherwise"),
        (CHATML.replace("m.content", "m.content | upper"), "changes what a reply says"),
        ("{{ raise_exception('no way') }}", "no way"),
        ("{% for m in messages %}{{ m.content }}{% endfor", "refuses the messages"),
    ],
)
def test_templates_that_no_mask_fits_are_refused(tiny_llama: Path, jinja: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TokenizerTemplate(tokenizer_of(tiny_llama), jinja)


def test_a_template_that_rewrites_history_can_teach_last_replies(tiny_llama: Path) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    # As templates do that leave the thoughts of earlier replies out.
    jinja = CHATML.replace("m.content", "(m.content if loop.last or m.role == 'user' else '-')")
    with pytest.raises(UsageError, match="last_reply"):
        TokenizerTemplate(tokenizer, jinja)
    render = TokenizerTemplate(tokenizer, jinja, last_only=True).render
    [example] = Labeller(tokenizer, render, max_length=500).label([TALK])
    assert learned(tokenizer, example) == [" river </s>"]


def test_the_template_is_the_tokenizers_or_a_files(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    with pytest.raises(UsageError, match="brings no chat template"):
        read_chat_template("auto", tokenizer)
    with pytest.raises(UsageError, match="cannot be read"):
        read_chat_template(str(tmp_path / "none.jinja"), tokenizer)
    (tmp_path / "t.jinja").write_text(CHATML, "utf-8")
    assert read_chat_template(str(tmp_path / "t.jinja"), tokenizer) == CHATML
    tokenizer.chat_template = MARKED
    assert read_chat_template("auto", tokenizer) == MARKED
