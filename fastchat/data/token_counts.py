"""How many tokens texts have, most of their words looked up instead of tokenized again.

Where no token of a vocabulary reaches from a word over the blank that follows it, the tokens of
a text are those of its words, one after the other. Whether that holds is read from the
vocabulary, and the first texts are counted both ways; where it does not, every text is
tokenized whole. Words repeat, so a dictionary knows most of them.
"""

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastchat.model.tokenizer_file import AddedMark

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ANCHOR = "x"
"""Stands before a word that does not begin its text."""

# How vocabularies write a blank and a line's end.
BLANKS, BREAKS = " ▁Ġ", "\nĊ"
REACHES_OVER_BLANK = re.compile(rf"[^\0\s{BLANKS}{BREAKS}čĉ][{BLANKS}]")
REACHES_OVER_BREAK = re.compile(rf"[^\0\s{BLANKS}{BREAKS}čĉ][{BREAKS}čĉ]")
# A word takes the blanks before it along, and what follows it up to the next safe place.
AT_BLANKS = re.compile(r"\s*\S+(?:[^\S ]\s*\S+)*(?:\s+\Z)?")
AT_BLANKS_AND_BREAKS = re.compile(r"\s*\S+(?:[^\S \n]\s*\S+)*(?:\s+\Z)?")
# The same for a text whose only blanks are those and breaks, and which ends with neither.
_PLAIN = re.compile(r"\s*\S+")
_OTHER_BLANKS = "\t\r\v\f\x1c\x1d\x1e\x1f"

N_CHECKED = 32
"""Texts that are counted both ways at the beginning."""
N_KNOWN = 200_000
"""Words that are remembered; beyond it all are forgotten."""
LONGEST_KNOWN = 40
"""Characters; longer words, such as sentences without blanks, hardly ever repeat."""


class TokenCounter:
    """Counts tokens for one tokenizer, without those it adds at the ends of a text.

    Args:
        tokenizer: one that neither cuts nor pads.
        added: tokens that are found in a text before it is split.
    """

    def __init__(self, tokenizer: "Tokenizer", added: Sequence[AddedMark] = ()) -> None:
        # One process a core is enough; threads within each would only wait for one another.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._tokenizer = tokenizer
        self._words = word_pattern(tokenizer)
        self._n_unchecked = N_CHECKED
        self._later: dict[str, int] = {}
        self._first: dict[tuple[str, str], int] = {}
        # These swallow blanks or depend on what stands beside them.
        self._awkward = [
            mark.text
            for mark in added
            if mark.lstrip or mark.rstrip or mark.single_word or " " in mark.text
        ]

    def counts(self, texts: Sequence[str], *, after: str = "") -> list[int]:
        """The number of tokens of each text where it stands right behind `after`."""
        if self._words is None:
            return self._whole(texts, after)
        result = self._by_words(texts, after)
        if self._n_unchecked > 0:
            self._n_unchecked -= len(texts)
            whole = self._whole(texts, after)
            if result != whole:
                self._words = None
                return whole
        return result

    def _whole(self, texts: Sequence[str], after: str) -> list[int]:
        """The numbers, found by tokenizing all there is."""
        encodings = self._tokenizer.encode_batch_fast(
            [after, *(after + text for text in texts)], add_special_tokens=False
        )
        n_before, *lengths = [len(encoding) for encoding in encodings]
        return [length - n_before for length in lengths]

    def _by_words(self, texts: Sequence[str], after: str) -> list[int]:
        """The numbers as sums over words."""
        found = [self._split(text) for text in texts]
        # Only the first word of a text depends on what stands before it.
        firsts = [words.pop(0) if words else None for words in found]
        later = self._later
        unknown = list(set[str]().union(*found).difference(later))
        if unknown:
            later.update(zip(unknown, self._whole(unknown, ANCHOR), strict=True))
        result = [
            self._whole([text], after)[0]
            if first is None
            else self._first_count(first, after) + sum(map(later.__getitem__, words))
            for text, first, words in zip(texts, firsts, found, strict=True)
        ]
        for word in unknown:
            if len(word) > LONGEST_KNOWN:
                del later[word]
        if len(later) > N_KNOWN:
            later.clear()
        return result

    def _split(self, text: str) -> list[str]:
        """The words of a text; none where it has to be tokenized whole."""
        assert self._words is not None
        if self._awkward and any(mark in text for mark in self._awkward):
            return []
        if self._words is AT_BLANKS_AND_BREAKS and _is_plain(text):
            return _PLAIN.findall(text)
        return self._words.findall(text)

    def _first_count(self, word: str, after: str) -> int:
        """The number of tokens of a text's first word."""
        place = (after, word)
        if (n_tokens := self._first.get(place)) is None:
            [n_tokens] = self._whole([word], after)
            if len(word) <= LONGEST_KNOWN and len(self._first) < N_KNOWN:
                self._first[place] = n_tokens
        return n_tokens


def word_pattern(tokenizer: "Tokenizer") -> re.Pattern[str] | None:
    """Finds the pieces of a text whose tokens do not depend on one another.

    None where the vocabulary has tokens that reach from a word over the blank behind it.
    """
    vocabulary = "\0".join(tokenizer.get_vocab(with_added_tokens=False))
    if REACHES_OVER_BLANK.search(vocabulary):
        return None
    return AT_BLANKS if REACHES_OVER_BREAK.search(vocabulary) else AT_BLANKS_AND_BREAKS


def _is_plain(text: str) -> bool:
    """Whether the quicker search finds the same words."""
    if not text.isascii() or text[-1:].isspace():
        return False
    # A loop that stops at the first find; each look is a search for one byte.
    return not any(blank in text for blank in _OTHER_BLANKS)
