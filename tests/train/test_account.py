"""Accounts add up, and stop a training that would learn nothing."""

from pathlib import Path

import pytest

from fastchat.data.records import Record, Rejected, Turn
from fastchat.errors import DataError
from fastchat.families.registry import registry
from fastchat.train.account import Account, Rules, check_enough_to_learn, teach
from fastchat.train.examples import IGNORED, Labeller


def record(*texts: str) -> Record:
    speakers = ("human", "gpt") * len(texts)
    turns = (Turn(speaker=s, text=text) for s, text in zip(speakers, texts, strict=False))
    return Record(id="r", turns=tuple(turns))


def labeller(folder: Path, *, max_length: int = 80) -> Labeller:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = registry().template("vicuna_v1.1")
    return Labeller(tokenizer, template.render, max_length=max_length)


GIVEN = [
    record("a", "b"),
    Rejected(where="x", reason="not an object"),
    record("a", ""),
    record("very long question " * 40, "b"),
    record("c", "d " * 90, "e", "f"),
]


def test_what_is_dropped_is_counted_by_reason_and_what_is_cut_in_tokens(tiny_llama: Path) -> None:
    account = Account()
    taken = teach(GIVEN, labeller(tiny_llama), rules=Rules(), account=account)
    assert account.dropped == {
        "not an object": 1,
        "empty reply": 1,
        "no reply within the window": 1,
    }
    assert account.n_records == 5 == len(taken) + account.n_dropped
    assert (account.n_examples, account.n_cut_examples, account.n_rounds) == (2, 1, 3)
    assert account.n_tokens == sum(len(example.input_ids) for _, example in taken)
    assert account.n_learned == sum(int((e.labels != IGNORED).sum()) for _, e in taken)
    assert account.n_cut_tokens > account.n_cut_learned > 0
    assert "  dropped 1: empty reply" in account.lines()


def test_longer_conversations_can_be_dropped_or_split(tiny_llama: Path) -> None:
    maker = labeller(tiny_llama, max_length=150)
    long = [record("one", "two " * 12, "three", "four " * 12)]
    account = Account()
    assert teach(long, maker, rules=Rules(overlong="drop"), account=account) == []
    assert account.dropped == {"longer than the window": 1}
    account = Account()
    parts = teach(long, maker, rules=Rules(overlong="split"), account=account)
    assert (len(parts), account.n_dropped, account.n_cut_tokens) == (2, 0, 0)


def test_a_conversation_that_its_template_refuses_is_one_record_less(tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    from fastchat.train.tokenizer_template import TokenizerTemplate

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    jinja = (
        "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('not this') }}"
        "{% endif %}{{ m.role + ':' + m.content + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    maker = Labeller(tokenizer, TokenizerTemplate(tokenizer, jinja).render, max_length=80)
    account = Account()
    taken = teach(
        [record("a", "b"), record("no", "b"), record("c", "d")],
        maker,
        rules=Rules(),
        account=account,
    )
    assert len(taken) == 2
    assert list(account.dropped) == ["the chat template refuses the messages: not this"]


def test_training_stops_when_too_much_of_the_data_teaches_nothing(tiny_llama: Path) -> None:
    half = Account()
    maker = labeller(tiny_llama)
    teach([record("a", "b"), record("a", "")], maker, rules=Rules(), account=half)
    with pytest.raises(DataError, match=r"1 of 2 records in d\.json .*empty reply: 1"):
        check_enough_to_learn(half, name="d.json", max_share=0.05)
    check_enough_to_learn(half, name="d.json", max_share=0.5)
    nothing = Account()
    teach([record("a", "")], maker, rules=Rules(), account=nothing)
    with pytest.raises(DataError, match="nothing to learn from: 1 records"):
        check_enough_to_learn(nothing, name="d", max_share=1)


def test_accounts_add_up() -> None:
    first = Account(n_records=2, n_tokens=5, dropped={"x": 1})
    first.add(Account(n_records=3, n_tokens=7, dropped={"x": 1, "y": 2}))
    assert (first.n_records, first.n_tokens, first.dropped) == (5, 12, {"x": 2, "y": 2})
    assert Account.from_json(first.to_json()) == first
