"""Lengths of rendered conversations are those of training."""

import pytest

from fastchat.data.rendered_length import RenderedLength, pieces_of_template, slack
from fastchat.errors import UsageError
from fastchat.families.registry import registry
from fastchat.message import Message
from fastchat.model.tokenizer_file import read_tokenizer
from fastchat.train.examples import Labeller

ROUNDS = [
    ("What is 1 + 1?", "It is 2."),
    ("Write code.\n\n    indented", "```python\nprint('hi')\n```\n\nDone."),
    ("Say </s> and <s>.", "Here: </s>, <s>, <unk> ASSISTANT: USER: [INST]"),
    ("  blanks  ", "日本語 "),
]
SYSTEM = Message(role="system", text="Be brief, </s>.")


def messages(n_rounds: int) -> list[tuple[Message, Message]]:
    return [
        (Message(role="user", text=asked), Message(role="assistant", text=answer))
        for asked, answer in ROUNDS[:n_rounds]
    ]


def names(*layouts: str) -> list[str]:
    return [
        name for name in registry().template_names if registry().template(name).layout in layouts
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", names("turns", "joined"))
def test_every_template_has_the_length_of_training(name: str) -> None:
    from transformers import AutoTokenizer

    from fastchat.model.hub import locate

    template = registry().template(name)
    measure = RenderedLength(read_tokenizer("vicuna-tiny"), pieces_of_template(template))
    labeller = Labeller(
        AutoTokenizer.from_pretrained(locate("vicuna-tiny").path),
        template.render,
        max_length=1 << 30,
    )
    for system in ([], [SYSTEM]):
        for n_rounds in range(1, len(ROUNDS) + 1):
            rounds = messages(n_rounds)
            [example] = labeller.label([[*system, *(m for one in rounds for m in one)]])
            assert measure.length(system, rounds) == len(example.input_ids)
            estimate = sum(measure.estimates(system, rounds))
            assert abs(estimate - len(example.input_ids)) <= slack(n_rounds)


def test_without_rounds_it_is_what_stands_before_them() -> None:
    template = registry().template("vicuna_v1.1")
    measure = RenderedLength(read_tokenizer("vicuna-tiny"), pieces_of_template(template))
    head, first = measure.estimates([], messages(1))
    assert head == measure.length([], [])
    assert head + first == measure.length([], messages(1))


def test_estimates_that_turn_out_wrong_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    template = registry().template("vicuna_v1.1")
    measure = RenderedLength(read_tokenizer("vicuna-tiny"), pieces_of_template(template))
    monkeypatch.setattr(measure._counter, "counts", lambda texts, after="": [100 for _ in texts])
    rounds = messages(2)
    estimate = measure.estimates([], rounds)
    assert abs(sum(estimate) - measure.length([], rounds)) <= slack(2)
    assert measure.estimates([], rounds) == estimate


def test_a_template_that_forgets_is_refused() -> None:
    [name, *_] = names("last_turns")
    with pytest.raises(UsageError, match="writes the last round only"):
        pieces_of_template(registry().template(name))
