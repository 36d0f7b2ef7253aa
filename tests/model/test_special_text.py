"""Special tokens of the template, and the same letters in a message."""

import pickle
from typing import Any

import pytest

from fastchat.message import Message
from fastchat.model.special_text import SpecialText
from fastchat.model.tokenizer_file import AddedMark

SPECIALS = [
    AddedMark(id=0, text="<s>", special=True),
    AddedMark(id=1, text="</s>", special=True),
    AddedMark(id=2, text="</s></s>", special=True, rstrip=True),
]


def said(text: str) -> Message:
    return Message(role="user", text=text)


def tokenizer() -> Any:
    """One token per byte; the special ones are 0, 1 and 2."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*(one.text for one in SPECIALS), *alphabet]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens([AddedToken(one.text, rstrip=one.rstrip) for one in SPECIALS])
    return made


@pytest.mark.parametrize("text", ["</s>", "a <s> b", "</s></s><s>", "<</s>s>", "plain"])
def test_what_a_message_spells_comes_back_as_letters(text: str) -> None:
    special = SpecialText(SPECIALS)
    rendered = f"<s>USER: {special.hidden(said(text)).text}</s>"
    begin, end = special.mark_of("<s>"), special.mark_of("</s>")
    assert special.marked(rendered) == f"{begin}USER: {text}{end}"


def test_a_message_without_special_tokens_is_left_alone() -> None:
    message = said("what is <br> in HTML?")
    assert SpecialText(SPECIALS).hidden(message) is message
    assert SpecialText([]).hidden(said("<s>")).text == "<s>"
    assert SpecialText([]).marked("<s>") == "<s>"


def test_the_longest_token_is_the_one_meant() -> None:
    special = SpecialText(SPECIALS)
    assert special.marked("a</s></s>") == f"a{special.mark_of('</s></s>')}"
    assert special.mark_of("a") is None and special.mark_of(None) is None


def test_marks_are_tokens_and_letters_are_not() -> None:
    special, backend = SpecialText(SPECIALS), tokenizer()
    assert backend.encode("</s>").ids == [1]
    special.add_to(backend)
    rendered = special.marked("<s>" + special.hidden(said("</s>")).text + "</s>")
    first, *letters, last = backend.encode(rendered).tokens
    assert (first, last) == (special.mark_of("<s>"), special.mark_of("</s>"))
    assert "".join(letters) == "</s>" and len(letters) == 4


def test_a_mark_takes_blanks_as_its_token_does() -> None:
    special, backend = SpecialText(SPECIALS), tokenizer()
    special.add_to(backend)
    assert len(backend.encode(special.marked("</s></s>  a")).ids) == 2
    assert len(backend.encode(special.marked("<s>  a")).ids) == 4


def test_another_key_and_no_one_elses_marks() -> None:
    one, other = SpecialText(SPECIALS), SpecialText(SPECIALS)
    assert one.mark_of("<s>") != other.mark_of("<s>")
    forged = other.hidden(said("</s>")).text
    assert one.marked(forged) == forged


def test_it_travels_to_another_process() -> None:
    special = SpecialText(SPECIALS)
    copy = pickle.loads(pickle.dumps(special))
    assert copy.marked(special.hidden(said("<s>")).text) == "<s>"
    assert copy.mark_of("<s>") == special.mark_of("<s>")
