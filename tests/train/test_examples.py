"""Ids and labels: the vectors, and the rule on texts that are made to break it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastchat.data.records import Record, Rejected, Turn, parse_record
from fastchat.errors import DataError
from fastchat.families.registry import registry
from fastchat.message import Message
from fastchat.train.examples import (
    IGNORED,
    Collator,
    Example,
    Examples,
    Labeller,
    check_enough_to_learn,
    messages_of,
)

SPEAKERS = {"h": "human", "g": "gpt"}


def record(*texts: str, roles: str = "", system: str | None = None) -> Record:
    """A record of alternating turns, or of the roles named by letters."""
    roles = roles or "hg" * len(texts)
    turns = (
        Turn(speaker=SPEAKERS.get(role, role), text=text)
        for role, text in zip(roles, texts, strict=False)
    )
    return Record(id="r", turns=tuple(turns), system=system)


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def labeller(tokenizer: Any, *, max_length: int = 256, template: str = "vicuna_v1.1") -> Labeller:
    return Labeller(tokenizer, registry().template(template).render, max_length=max_length)


def example_of(maker: Labeller, given: Record) -> Example:
    messages = messages_of(given)
    assert not isinstance(messages, str), messages
    [example] = maker.label([messages])
    return example


def learned_text(tokenizer: Any, example: Example) -> list[str]:
    """The stretches that carry loss, decoded."""
    stretches: list[list[int]] = [[]]
    for label in example.labels:
        if label == IGNORED:
            stretches.append([])
        else:
            stretches[-1].append(int(label))
    return [tokenizer.decode(stretch).strip() for stretch in stretches if stretch]


def vector_cases(folder: Path) -> Sequence[dict[str, Any]]:
    return json.loads((folder / "masking_vectors.json").read_text("utf-8"))["cases"]


@pytest.mark.parametrize("lazy", [False, True])
def test_the_published_vectors_are_exact(shared: Path, lazy: bool) -> None:
    folder = shared / "spec" / "vectors"
    cases = vector_cases(folder)
    assert len(cases) >= 6
    for case in cases:
        maker = labeller(tokenizer_of(folder / case["tokenizer"]))
        given = parse_record({"id": "x", "conversations": case["conversations"]}, where="x")
        [example] = Examples([given], maker, lazy=lazy)
        assert isinstance(given, Record)
        messages = messages_of(given)
        assert not isinstance(messages, str)
        assert maker.text(messages) == case["expected"]["text"], case["name"]
        assert example.input_ids.tolist() == case["expected"]["input_ids"], case["name"]
        assert example.labels.tolist() == case["expected"]["labels"], case["name"]


def test_ids_are_those_of_the_whole_text_tokenized_once(tiny_llama: Path) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    maker = labeller(tokenizer)
    given = record("Hi  there", " two\nlines ", "ASSISTANT: no", "😀 ü")
    messages = messages_of(given)
    assert not isinstance(messages, str)
    text = maker.text(messages)
    assert example_of(maker, given).input_ids.tolist() == tokenizer(text)["input_ids"]


def test_every_reply_is_learned_with_its_end_and_nothing_else(tiny_llama: Path) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    given = record("red", "blue", "green", "It is ASSISTANT: river", "and", "name")
    example = example_of(labeller(tokenizer), given)
    replies = ["blue</s>", "It is ASSISTANT: river</s>", "name</s>"]
    assert learned_text(tokenizer, example) == replies


@pytest.mark.parametrize("special", ["</s>", "<s>", "<pad>", "</s></s><s>"])
def test_special_text_in_messages_stays_text(tiny_llama: Path, special: str) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    given = record(f"what is {special}?", f"It is {special} the end{special}", system=special)
    example = example_of(labeller(tokenizer), given)
    ids = example.input_ids.tolist()
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids.count(tokenizer.pad_token_id) == 0
    assert learned_text(tokenizer, example) == [f"It is {special} the end{special}</s>"]


def test_blanks_around_a_reply_are_learned(tiny_llama: Path) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    example = example_of(labeller(tokenizer), record("a", "   x  "))
    learned = example.labels[example.labels != IGNORED]
    assert tokenizer.decode(learned) == "    x  </s>"


def test_ids_and_labels_are_cut_from_the_right(tiny_llama: Path) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    given = record("one", "two", "three", "four")
    whole = example_of(labeller(tokenizer), given)
    short = example_of(labeller(tokenizer, max_length=len(whole.input_ids) - 3), given)
    assert short.input_ids.tolist() == whole.input_ids.tolist()[:-3]
    assert short.labels.tolist() == whole.labels.tolist()[:-3]
    assert (whole.n_cut, short.n_cut) == (0, 3)


def test_the_first_message_that_is_not_human_and_the_last_that_is_are_left_out() -> None:
    messages = messages_of(record("welcome", "hi", "hello", "bye", roles="ghgh"))
    assert messages == [
        Message(role="user", text="hi"),
        Message(role="assistant", text="hello"),
    ]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (record("a", "b", "c", roles="hhg"), "roles do not alternate"),
        (record("a", "b", "c", roles="ggh"), "roles do not alternate"),
        (record("a", "b", roles="h?"), "unknown role"),
        (record("a", "b", roles="?g"), "unknown role"),
        (record("a", roles="h"), "no reply"),
        (record("a", roles="g"), "no reply"),
        (record(), "no reply"),
        (record("a", " "), "empty reply"),
    ],
)
def test_records_without_anything_to_learn_say_why(given: Record, reason: str) -> None:
    assert messages_of(given) == reason


def test_templates_that_write_the_first_mark_get_it_once(tiny_llama: Path) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    maker = labeller(tokenizer, template="llama-2")
    ids = example_of(maker, record("a", "b", system="x")).input_ids.tolist()
    assert ids[0] == tokenizer.bos_token_id != ids[1]


@pytest.mark.parametrize("lazy", [False, True])
def test_what_is_dropped_is_counted_by_reason(tiny_llama: Path, lazy: bool) -> None:
    maker = labeller(tokenizer_of(tiny_llama), max_length=80)
    given = [
        record("a", "b"),
        Rejected(where="x", reason="not an object"),
        record("a", ""),
        record("very long question " * 40, "b"),
        record("c", "d " * 90),
    ]
    examples = Examples(given, maker, lazy=lazy)
    assert examples.dropped == {
        "not an object": 1,
        "empty reply": 1,
        "no reply within the window": 1,
    }
    assert (len(examples), examples.n_read, examples.n_cut) == (2, 5, 1)
    assert len(examples.lengths()) == 2
    assert all((example.labels != IGNORED).any() for example in examples)
    assert len(Examples(given, maker, lazy=lazy, drop_overlong=True)) == 1


def test_lazy_and_eager_examples_are_equal_and_the_cache_is_bounded(tiny_llama: Path) -> None:
    maker = labeller(tokenizer_of(tiny_llama))
    given = [record(f"question {i}", f"answer {i}") for i in range(6)]
    eager, lazy = Examples(given, maker), Examples(given, maker, lazy=True)
    lazy.n_cached = 2
    for i in range(6):
        assert np.array_equal(eager[i].input_ids, lazy[i].input_ids)
        assert np.array_equal(eager[i].labels, lazy[i].labels)
    assert len(lazy._cache) == 2


def test_training_stops_when_too_much_of_the_data_teaches_nothing(tiny_llama: Path) -> None:
    maker = labeller(tokenizer_of(tiny_llama))
    half = Examples([record("a", "b"), record("a", "")], maker)
    with pytest.raises(DataError, match=r"1 of 2 records in d\.json .*empty reply: 1"):
        check_enough_to_learn(half, path="d.json", max_share=0.05)
    check_enough_to_learn(half, path="d.json", max_share=0.5)
    with pytest.raises(DataError, match="nothing to learn from: 1 records"):
        check_enough_to_learn(Examples([record("a", "")], maker), path="d", max_share=1)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_padded_to_its_longest_by_position(side: str) -> None:
    def example(*ids: int) -> Example:
        array = np.array(ids, dtype=np.int32)
        return Example(input_ids=array, labels=array)

    batch = Collator(pad_id=9, padding_side=side)([example(9, 8, 7), example(5)])
    padded = {"right": [5, 9, 9], "left": [9, 9, 5]}[side]
    assert batch["input_ids"].tolist() == [[9, 8, 7], padded]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [int(i == 5) for i in padded]]
    assert batch["labels"].tolist()[1] == [i if i == 5 else IGNORED for i in padded]
