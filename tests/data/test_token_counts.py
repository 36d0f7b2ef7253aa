"""Counting by words gives what tokenizing the whole text gives."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from fastchat.data.token_counts import TokenCounter, word_pattern
from fastchat.model.tokenizer_file import AddedMark, read_tokenizer

TEXTS = [
    "",
    " ",
    "\n",
    "word",
    " leading and  double   blanks ",
    "lines\n\n\nand\n    indented code\n\tand tabs \n",
    "end of line blanks  \n  and more",
    "punctuation...); then\n});\n",
    "日本語 と English 混ぜ",
    "numbers 12345 3.14",
    "non-breaking\u00a0space and \u2003 wide",
    "</s> is <s> spelled",
]


def whole(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return read_tokenizer("vicuna-tiny").open()


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_has_as_many_tokens_by_words(tokenizer: Tokenizer, text: str) -> None:
    counter = TokenCounter(tokenizer)
    assert counter.counts([text]) == [whole(tokenizer, text)]
    assert counter._by_words([text], "") == [whole(tokenizer, text)]
    assert counter._by_words([text], "</s>") == [whole(tokenizer, "</s>" + text) - 1]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("ab .,;\n\t\r12 é界'(){}\u00a0"), max_size=60))
def test_any_text_has_as_many_tokens_by_words(text: str) -> None:
    tokenizer = read_tokenizer("vicuna-tiny").open()
    assert TokenCounter(tokenizer)._by_words([text], "") == [whole(tokenizer, text)]


def test_a_vocabulary_that_reaches_over_blanks_is_tokenized_whole() -> None:
    vocabulary = {"a": 0, "b": 1, "Ġ": 2, "aĠ": 3, "aĠb": 4}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "Ġ"), ("aĠ", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert word_pattern(tokenizer) is None
    assert TokenCounter(tokenizer).counts(["a b", "b a"]) == [1, 3]


def test_a_tokenizer_that_turns_out_otherwise_is_tokenized_whole(tokenizer: Tokenizer) -> None:
    class Surprising(TokenCounter):
        def _by_words(self, texts: Sequence[str], after: str) -> list[int]:
            return [n + 1 for n in super()._by_words(texts, after)]

    counter = Surprising(tokenizer)
    assert counter.counts(["some words"]) == [whole(tokenizer, "some words")]
    assert counter.counts(["more words"]) == [whole(tokenizer, "more words")]


def test_marks_that_swallow_blanks_are_respected(tokenizer: Tokenizer) -> None:
    from tokenizers import AddedToken

    tokenizer = read_tokenizer("vicuna-tiny").open()
    tokenizer.add_tokens([AddedToken("<mark>", rstrip=True, normalized=False)])
    mark = AddedMark(id=0, text="<mark>", special=False, rstrip=True)
    text = "before <mark>   after it"
    assert TokenCounter(tokenizer, [mark])._by_words([text], "") == [whole(tokenizer, text)]


def test_words_are_forgotten_when_they_are_too_many(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastchat.data.token_counts.N_KNOWN", 10)
    counter = TokenCounter(tokenizer)
    for i in range(50):
        text = " ".join(f"w{i}x{j}" for j in range(8))
        assert counter.counts([text]) == [whole(tokenizer, text)]
        assert len(counter._later) <= 10
