import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastchat.engine.detokenize import LONGEST_RUN, Detokenizer, token_text

TEXTS = [
    "Hello, world!  Two blanks,\n\ta tab.",
    "你好，世界。今天天气很好！",
    "emoji 🤗👩‍👩‍👧‍👦🏳️‍🌈 and flags 🇩🇪",
    "Ünïcödé ñ ß – “quotes” … ¿qué?",
    "தமிழ் ไทย עברית العربية",
    " leading and trailing ",
    "genuine \ufffd replacement \ufffd",
    "a\u0301\u0302 combining",
    "",
]


def sentencepiece_like() -> Any:
    """A Llama-like tokenizer: blanks as U+2581, unknown characters as byte tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    pieces += ["\u2581", "\u2581He", "llo", "\u2581world", "\u2581\u2581", *"abcdefgh,.!?\n\ufffd"]
    pieces += ["\u2581a", "\u2581b"]
    merges: list[tuple[str, str]] = []
    model = models.BPE(
        {p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True
    )
    raw = Tokenizer(model)
    raw.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def byte_level() -> Any:
    """A GPT-2-like tokenizer with an added token that is text and holds a blank."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(TEXTS, trainer)
    raw.add_tokens([AddedToken("two words", special=False), AddedToken("名", special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module", params=["sentencepiece", "bytes", "tok_llama", "tok_bytebpe"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    if request.param == "sentencepiece":
        return sentencepiece_like()
    if request.param == "bytes":
        return byte_level()
    from transformers import AutoTokenizer

    shared: Path = request.getfixturevalue("shared")
    return AutoTokenizer.from_pretrained(
        shared / "spec" / "vectors" / request.param, clean_up_tokenization_spaces=False
    )


def stream(tokenizer: Any, ids: list[int], prompt_ids: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt_ids or [])
    return [*(detokenizer.push([i]) for i in ids), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_add_up_to_the_tokenizers_own_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("text", [t for t in TEXTS if "\ufffd" not in t])
def test_no_piece_holds_part_of_a_character(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert not any("\ufffd" in piece for piece in stream(tokenizer, ids))


def test_a_genuine_replacement_character_is_kept(tokenizer: Any) -> None:
    ids = tokenizer("x \ufffd y", add_special_tokens=False).input_ids
    assert "".join(stream(tokenizer, ids)).count("\ufffd") == 1


def test_special_tokens_have_no_text_and_break_no_character(tokenizer: Any) -> None:
    ids = tokenizer("好🤗 b", add_special_tokens=False).input_ids
    mixed = [x for i in ids for x in (i, tokenizer.eos_token_id)]
    assert "".join(stream(tokenizer, mixed)) == tokenizer.decode(ids)


def test_an_answer_that_continues_a_prompt_keeps_its_blank(tokenizer: Any) -> None:
    whole = tokenizer("a b 你好 a", add_special_tokens=False).input_ids
    for cut in range(len(whole) + 1):
        first = "".join(stream(tokenizer, whole[:cut]))
        rest = "".join(stream(tokenizer, whole[cut:], whole[:cut]))
        if "\ufffd" not in first:
            assert first + rest == tokenizer.decode(whole)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_ids_in_any_portions_give_the_tokenizers_own_text(
    tokenizer: Any, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=4).map(sorted))
    points = [0, *cuts, len(ids)]
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(ids[a:b]) for a, b in itertools.pairwise(points)]
    text = "".join(pieces) + detokenizer.flush()
    assert text == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_run_of_bytes_that_is_no_text_becomes_one_mark_each() -> None:
    tokenizer = sentencepiece_like()
    run = tokenizer.convert_tokens_to_ids(["<0xE4>", "<0x41>", "<0xFF>"])
    a = tokenizer.convert_tokens_to_ids("a")
    assert "".join(stream(tokenizer, [a, *run, a])) == "a\ufffd\ufffd\ufffda"


def test_a_long_run_of_bytes_is_shown_before_it_ends() -> None:
    tokenizer = sentencepiece_like()
    text = "தமிழ்" * 20
    ids = tokenizer(text, add_special_tokens=False).input_ids
    pieces = stream(tokenizer, ids)
    assert "".join(pieces) == text
    assert len("".join(pieces[: LONGEST_RUN + 3])) > LONGEST_RUN // 4


def test_ids_that_the_tokenizer_lacks_have_no_text(tokenizer: Any) -> None:
    assert "".join(stream(tokenizer, [len(tokenizer) + 5])) == ""


def test_the_cost_of_a_token_does_not_grow_with_the_text(tokenizer: Any) -> None:
    detokenizer = Detokenizer(tokenizer)
    seen: list[int] = []
    text: Any = detokenizer._text
    if hasattr(text, "_vocabulary"):
        decode = text._vocabulary.decode
        text._vocabulary.decode = lambda ids: (seen.append(len(ids)), decode(ids))[1]
    rng = random.Random(0)
    try:
        for _ in range(2000):
            detokenizer.push([rng.randrange(len(tokenizer))])
    finally:
        if hasattr(text, "_vocabulary"):
            del text._vocabulary.decode
    assert max(seen, default=0) <= LONGEST_RUN + 1


def test_the_text_of_one_token_keeps_its_blank_and_names_special_ones() -> None:
    for tokenizer, token in ((sentencepiece_like(), "\u2581world"), (byte_level(), "Ġ")):
        shown = token_text(tokenizer, tokenizer.convert_tokens_to_ids(token))
        assert shown == token.replace("\u2581", " ").replace("Ġ", " ")
        assert token_text(tokenizer, tokenizer.eos_token_id) == "</s>"
