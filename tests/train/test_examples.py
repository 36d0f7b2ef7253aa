"""Ids and labels: the vectors, and the rule on texts that are made to break it."""

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.records import Record, Turn, parse_record
from fastchat.families.registry import registry
from fastchat.message import Message
from fastchat.train.examples import (
    IGNORED,
    Example,
    Labeller,
    lessons_of,
    messages_of,
    parts_of,
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
    lessons = lessons_of(given)
    assert not isinstance(lessons, str), lessons
    [example] = maker.label(lessons)
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


def test_the_published_vectors_are_exact(shared: Path) -> None:
    folder = shared / "spec" / "vectors"
    cases = vector_cases(folder)
    assert len(cases) >= 6
    for case in cases:
        maker = labeller(tokenizer_of(folder / case["tokenizer"]))
        given = parse_record({"id": "x", "conversations": case["conversations"]}, where="x")
        assert isinstance(given, Record)
        example = example_of(maker, given)
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
    assert messages_of(given) == lessons_of(given) == reason


def test_templates_that_write_the_first_mark_get_it_once(tiny_llama: Path) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    maker = labeller(tokenizer, template="llama-2")
    ids = example_of(maker, record("a", "b", system="x")).input_ids.tolist()
    assert ids[0] == tokenizer.bos_token_id != ids[1]


@pytest.mark.parametrize("template", ["vicuna_v1.1", "llama-2", "qwen-7b-chat", "zero_shot"])
def test_every_template_learns_each_reply_with_its_end(tiny_llama: Path, template: str) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    maker = labeller(tokenizer, template=template, max_length=1000)
    example = example_of(maker, record("red", "blue", "green", "river", system="Be brief."))
    learned = learned_text(tokenizer, example)
    assert len(learned) == 2
    assert [
        text.partition(reply)[1] for text, reply in zip(learned, ("blue", "river"), strict=True)
    ] == [
        "blue",
        "river",
    ]
    assert not any("green" in text or "red" in text for text in learned)


def test_what_is_learned_can_be_chosen(tiny_llama: Path) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    maker = labeller(tokenizer)
    given = record("red", "blue", "green", "river")

    def learned(loss_on: Any) -> list[list[str]]:
        lessons = lessons_of(given, loss_on=loss_on)
        assert not isinstance(lessons, str)
        return [learned_text(tokenizer, example) for example in maker.label(lessons)]

    assert learned("all_replies") == [["blue</s>", "river</s>"]]
    assert learned("last_reply") == [["river</s>"]]
    assert learned("each_reply") == [["blue</s>"], ["river</s>"]]
    [[everything]] = learned("all_tokens")
    assert everything.startswith("A chat") and everything.endswith("river</s>")


def weighted(*turns: tuple[str, str, dict[str, object]]) -> Record:
    return Record(
        id="w", turns=tuple(Turn(speaker=s, text=text, extra=extra) for s, text, extra in turns)
    )


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"weight": 0.0}])
def test_a_message_can_be_left_out_of_the_loss(tiny_llama: Path, mark: dict[str, object]) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    given = weighted(
        ("human", "red", {}), ("gpt", "blue", mark), ("human", "green", {}), ("gpt", "river", {})
    )
    assert learned_text(tokenizer, example_of(labeller(tokenizer), given)) == ["river</s>"]
    alone = weighted(("human", "red", {}), ("gpt", "blue", mark))
    assert lessons_of(alone) == "no message to learn"


def test_a_weight_that_is_neither_0_nor_1_is_refused() -> None:
    given = weighted(("human", "red", {}), ("gpt", "blue", {"weight": 0.5}))
    assert lessons_of(given) == "weight is neither 0 nor 1"


def test_a_message_left_out_of_all_tokens_takes_only_its_own(tiny_llama: Path) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    given = weighted(
        ("human", "red", {"train": False}),
        ("gpt", "blue", {}),
        ("human", "green", {}),
        ("gpt", "river", {}),
    )
    lessons = lessons_of(given, loss_on="all_tokens")
    assert not isinstance(lessons, str)
    [example] = labeller(tokenizer).label(lessons)
    learned = " ".join(learned_text(tokenizer, example))
    assert "red" not in learned and "green" in learned and "blue" in learned


def test_a_long_conversation_becomes_parts_of_whole_rounds(tiny_llama: Path) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    maker = labeller(tokenizer, max_length=160)
    texts = [text for i in range(6) for text in (f"question {i} " * 4, f"answer {i} " * 4)]
    lessons = lessons_of(record(*texts, system="Short."))
    assert not isinstance(lessons, str)
    [lesson] = lessons
    parts = parts_of(lesson, maker)
    examples = maker.label(parts)
    assert len(parts) > 1 and not any(example.n_cut for example in examples)
    assert [m.text for part in parts for m in part.messages if m.role != "system"] == texts
    assert all(part.messages[0].text == "Short." for part in parts)


@pytest.mark.parametrize("missing", ["unk_token", "pad_token", "bos_token"])
def test_tokenizers_may_lack_special_tokens(tmp_path: Path, tiny_llama: Path, missing: str) -> None:
    shutil.copytree(tiny_llama, tmp_path / "m")
    path = tmp_path / "m" / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    settings.pop(missing, None)
    path.write_text(json.dumps(settings), "utf-8")
    tokenizer = tokenizer_of(tmp_path / "m")
    example = example_of(labeller(tokenizer), record("red", "blue", "green", "river"))
    assert learned_text(tokenizer, example) == ["blue</s>", "river</s>"]


def test_a_labeller_sent_to_another_process_labels_the_same(tiny_llama: Path) -> None:
    maker = labeller(tokenizer_of(tiny_llama))
    given = record("what is </s>?", "It is <s> the end")
    sent = pickle.loads(pickle.dumps(maker))
    first, second = example_of(maker, given), example_of(sent, given)
    assert first.input_ids.tolist() == second.input_ids.tolist()
    assert first.labels.tolist() == second.labels.tolist()
