"""Rows are full, and a model answers in them as it does to conversations apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fastchat.train.examples import IGNORED, Example
from fastchat.train.packing import COUNTS, Collator, Layout, PackedRows, Row, pack


class Listed:
    """Examples in a list."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def lengths(self) -> Any:
        return np.array([len(example.input_ids) for example in self.examples], dtype=np.int64)


def some_examples(n: int, *, longest: int, vocabulary: int = 64) -> list[Example]:
    rng = np.random.default_rng(0)
    examples: list[Example] = []
    for _ in range(n):
        ids = rng.integers(0, vocabulary, rng.integers(3, longest + 1)).astype(np.int32)
        labels = np.where(rng.random(len(ids)) < 0.5, ids, IGNORED).astype(np.int32)
        labels[-1] = ids[-1]
        examples.append(Example(input_ids=ids, labels=labels))
    return examples


def test_every_example_is_in_one_row_and_no_row_is_too_long() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 513, 2000)
    rows = pack(lengths, 512)
    assert sorted(i for row in rows for i in row) == list(range(2000))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 512
    assert lengths.sum() / (512 * len(rows)) >= 0.95


def test_the_fullest_row_with_room_is_taken() -> None:
    assert pack([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]
    assert pack([], 10) == []
    assert pack([25, 3], 10) == [[0], [1]]


def test_packed_rows_know_their_lengths() -> None:
    examples = some_examples(30, longest=20)
    rows = PackedRows(Listed(examples), window=32)
    assert [sum(len(e.input_ids) for e in rows[i]) for i in range(len(rows))] == list(
        rows.lengths()
    )
    assert sum(len(rows[i]) for i in range(len(rows))) == 30


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_padded_to_its_longest_by_position(side: str) -> None:
    def example(*ids: int) -> Example:
        array = np.array(ids, dtype=np.int32)
        return Example(input_ids=array, labels=array)

    batch = Collator(pad_id=9, padding_side=side)([example(9, 8, 7), example(5, 9)])
    padded = {"right": [5, 9, 9], "left": [9, 5, 9]}[side]
    real = {"right": [1, 1, 0], "left": [0, 1, 1]}[side]
    learned = {"right": [IGNORED, 9, IGNORED], "left": [IGNORED, IGNORED, 9]}[side]
    assert batch["input_ids"].tolist() == [[9, 8, 7], padded]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], real]
    assert batch["labels"].tolist() == [[IGNORED, 8, 7], learned]
    assert batch[COUNTS] == (5, 6, 3)


def test_rows_begin_anew_and_bring_no_mask() -> None:
    examples = some_examples(5, longest=9)
    rows: list[Row] = [tuple(examples[:2]), tuple(examples[2:])]
    batch = Collator(pad_id=0, layout="rows")(rows)
    assert "attention_mask" not in batch
    for i, row in enumerate(rows):
        starts = np.cumsum([0, *(len(example.input_ids) for example in row)])[:-1]
        assert batch["position_ids"][i, starts].tolist() == [0] * len(row)
        assert batch["labels"][i, starts].tolist() == [IGNORED] * len(row)
    flat = Collator(pad_id=0, layout="flat")(rows)
    n = sum(len(example.input_ids) for example in examples)
    assert flat["input_ids"].shape == (1, n) and flat[COUNTS][:2] == (n, n)
    assert flat["cu_seq_lens_q"].tolist() == [
        0,
        *np.cumsum([len(example.input_ids) for example in examples]),
    ]


def llama(attention: str, **changes: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
        **changes,
    }
    return LlamaForCausalLM._from_config(
        LlamaConfig(**settings), attn_implementation=attention
    ).eval()


def logits_of(model: Any, batch: dict[str, Any]) -> Any:
    import torch

    with torch.no_grad():
        return model(**{k: v for k, v in batch.items() if k not in (COUNTS, "labels")}).logits


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # flex brings a compiler along
@pytest.mark.parametrize(
    ("attention", "layout"),
    [
        ("eager", "rows"),
        ("sdpa", "rows"),
        pytest.param("flex_attention", "rows", marks=pytest.mark.slow),
        ("segments", "flat"),
    ],
)
def test_packed_logits_are_those_of_conversations_apart(attention: str, layout: Layout) -> None:
    import torch

    from fastchat.train import segment_attention

    segment_attention.register()
    model = llama(attention)
    examples = some_examples(5, longest=24)
    rows: list[Row] = [tuple(examples[:3]), tuple(examples[3:])]
    packed = logits_of(model, Collator(pad_id=0, layout=layout)(rows))
    found: list[Any] = []
    for i, row in enumerate(rows):
        at = 0
        for example in row:
            n = len(example.input_ids)
            found.append(packed[i, at : at + n] if layout == "rows" else None)
            at += n
    if layout == "flat":
        found = list(packed[0].split([len(example.input_ids) for example in examples]))
    plain = llama("eager")
    for example, mine in zip(examples, found, strict=True):
        alone = logits_of(plain, Collator(pad_id=0)([example]))[0]
        torch.testing.assert_close(mine, alone, atol=1e-5, rtol=1e-4)


def test_a_sliding_window_holds_within_each_conversation() -> None:
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    from fastchat.train import segment_attention

    segment_attention.register()
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=5,
        initializer_range=0.3,
    )
    model = MistralForCausalLM._from_config(config, attn_implementation="eager").eval()
    examples = some_examples(4, longest=20)
    alone = [logits_of(model, Collator(pad_id=0)([example]))[0] for example in examples]
    model.set_attn_implementation("segments")
    packed = logits_of(model, Collator(pad_id=0, layout="flat")([tuple(examples)]))
    torch.testing.assert_close(packed[0], torch.cat(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layout", ["padded", "rows", "flat"])
def test_the_loss_and_its_gradients_are_the_same_in_every_layout(layout: Layout) -> None:
    import torch

    from fastchat.train import segment_attention

    segment_attention.register()
    examples = some_examples(4, longest=24)

    def loss_of(model: Any, collate: Collator, items: Sequence[Any]) -> Any:
        batch = collate(items)
        batch.pop(COUNTS)
        loss = model(**batch).loss
        loss.backward()
        return loss

    plain = llama("eager")
    expected = loss_of(plain, Collator(pad_id=0), examples)
    for learned_only in (False, True):
        model = llama("segments" if layout == "flat" else "sdpa")
        collate = Collator(pad_id=0, layout=layout, learned_only=learned_only)
        items: list[Any] = [tuple(examples[:2]), tuple(examples[2:])]
        loss = loss_of(model, collate, items)
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
        for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-3)


def test_attention_by_segments_still_generates() -> None:
    import torch

    from fastchat.train import segment_attention

    segment_attention.register()
    ids = torch.tensor([[1, 5, 9, 3]])
    texts = [
        llama(name).generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0).tolist()
        for name in ("sdpa", "segments")
    ]
    assert texts[0] == texts[1]


def test_models_are_asked_whether_they_keep_rows_apart() -> None:
    from transformers import (
        BloomConfig,
        BloomForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        MambaConfig,
        MambaForCausalLM,
    )

    from fastchat.train.packing_probe import packed_layout

    model = llama("sdpa")
    assert packed_layout(model) == "flat"
    assert model.config._attn_implementation == "segments"
    assert packed_layout(llama("eager")) == "rows"
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2))
    assert packed_layout(gpt2) in ("flat", "rows")
    bloom = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2))
    assert packed_layout(bloom) is None
    mamba = MambaForCausalLM(
        MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, state_size=4)
    )
    assert packed_layout(mamba) is None
