"""Ids to text piece by piece, never half a character, at a constant cost per token.

What comes out in all equals the tokenizer's own `decode(ids, skip_special_tokens=True)`. Two
kinds of tokenizer are told apart by their decoder:

- byte-level (GPT-2, Llama 3, Qwen): a token is bytes, looked up once; the text is their UTF-8.
- the rest (SentencePiece, Metaspace, ...): the text of new tokens is what they add to the token
  before them. Byte tokens (`<0xE4>`) are one run; such a decoder shows a run as text only if
  all of it is UTF-8, so a run is withheld until it ends, or is certain not to be text.
"""

from __future__ import annotations

import codecs
import functools
import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

LONGEST_RUN = 64
"""Bytes of one run after which its whole characters are shown although it may go on.

Only a script that the vocabulary lacks, written without blanks, comes so far.
"""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Detokenizer:
    """The text of one answer, as its ids come."""

    def __init__(
        self,
        tokenizer: Any,
        prompt_ids: Sequence[int] = (),
        kept: Mapping[int, str] | None = None,
    ) -> None:
        """
        Args:
            tokenizer: of transformers, with or without the tokenizers library behind it.
            prompt_ids: what the text continues, so that a leading blank that the tokenizer
                drops at the start of a text is kept; empty where the answer stands alone.
            kept: special tokens that are text, where the others are left out.
        """
        self._kept = kept or {}
        vocabulary = _vocabulary(tokenizer)
        if vocabulary.is_byte_level:
            self._text = _ByteText(vocabulary)
        else:
            self._text = _PieceText(vocabulary, prompt_ids)

    def push(self, ids: Sequence[int]) -> str:
        """The new whole characters, now that `ids` have come."""
        if self._kept:
            return "".join([self._push_one(token_id) for token_id in ids])
        return "".join([self._text.push(token_id) for token_id in ids])

    def _push_one(self, token_id: int) -> str:
        mark = self._kept.get(token_id)
        return self._text.push(token_id) if mark is None else self._text.flush() + mark

    def flush(self) -> str:
        """What was withheld, once no more will come; an unfinished character is U+FFFD."""
        return self._text.flush()


def token_text(tokenizer: Any, token_id: int) -> str:
    """The text of one token by itself, special ones included; part of a character is U+FFFD."""
    return _vocabulary(tokenizer).text_of(token_id)


class _ByteText:
    """Byte-level tokens: their bytes, through an incremental UTF-8 decoder."""

    def __init__(self, vocabulary: _Vocabulary) -> None:
        self._bytes_of = vocabulary.bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        return self._decoder.decode(self._bytes_of(token_id))

    def flush(self) -> str:
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


class _PieceText:
    """Other tokens: what each adds to the text of the one before it."""

    def __init__(self, vocabulary: _Vocabulary, prompt_ids: Sequence[int]) -> None:
        self._vocabulary = vocabulary
        shown = (i for i in reversed(prompt_ids) if not vocabulary.is_skipped(i))
        self._context = next(shown, None)
        """The last token whose text is out."""
        self._pending: list[int] = []
        """Tokens that are no bytes, and yet end within a character."""
        self._run: list[int] = []
        """Byte tokens whose text is not out."""
        self._run_state = _RunState.HELD
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")

    def push(self, token_id: int) -> str:
        if self._vocabulary.is_skipped(token_id):
            return ""
        byte = self._vocabulary.byte_of(token_id)
        if byte is not None:
            return self._end_pieces() + self._push_byte(token_id, byte)
        text = self._end_run()
        self._pending.append(token_id)
        added = self._text_added(self._pending)
        if added.endswith(REPLACEMENT) and len(self._pending) < 4:
            return text
        self._shown(self._pending)
        return text + added

    def flush(self) -> str:
        return self._end_pieces() + self._end_run()

    def _push_byte(self, token_id: int, byte: int) -> str:
        """Goes on with the run of byte tokens."""
        self._run.append(token_id)
        if self._run_state is _RunState.BROKEN:
            return self._shown(self._run, REPLACEMENT)
        try:
            characters = self._decoder.decode(bytes((byte,)))
        except UnicodeDecodeError:
            self._run_state = _RunState.BROKEN
            return self._shown(self._run, REPLACEMENT * len(self._run))
        if self._run_state is _RunState.OPEN:
            return self._shown(self._run, characters) if characters else ""
        if not characters or len(self._run) < LONGEST_RUN:
            return ""
        self._run_state = _RunState.OPEN
        return self._shown(self._run, self._run_text())

    def _end_run(self) -> str:
        """The text of the byte tokens that are still withheld."""
        text = self._shown(self._run, self._run_text()) if self._run else ""
        self._run_state = _RunState.HELD
        self._decoder.reset()
        return text

    def _end_pieces(self) -> str:
        """The text of the other tokens that are still withheld."""
        return self._shown(self._pending, self._text_added(self._pending)) if self._pending else ""

    def _run_text(self) -> str:
        """The text of the withheld byte tokens as a run of their own."""
        if self._context is None or self._vocabulary.byte_of(self._context) is None:
            return self._text_added(self._run)
        # The decoder would join them with the byte before, whose text is already out.
        data = bytes(self._vocabulary.byte_of(i) or 0 for i in self._run)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return REPLACEMENT * len(data)

    def _text_added(self, ids: list[int]) -> str:
        """What `ids` add to the text of the token before them."""
        if self._context is None:
            return self._vocabulary.decode(ids)
        before = self._vocabulary.decode([self._context])
        return self._vocabulary.decode([self._context, *ids])[len(before) :]

    def _shown(self, ids: list[int], text: str = "") -> str:
        """Takes note that the text of `ids` is out, and gives it back."""
        self._context = ids[-1]
        ids.clear()
        return text


class _RunState(Enum):
    """What becomes of the bytes of a run."""

    HELD = auto()
    """Withheld until the run ends: it is text only if all of it is."""
    OPEN = auto()
    """Long: shown character by character."""
    BROKEN = auto()
    """Not UTF-8: each byte is U+FFFD."""


class _Vocabulary:
    """What the tokens of one tokenizer are; looked up once for each id."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self.is_byte_level = self._backend is not None and _is_byte_level(self._backend.decoder)
        self._skipped = _skipped_ids(tokenizer)
        self.is_skipped = self._skipped.__contains__
        self.byte_of = functools.cache(self._byte_of)
        self.bytes_of = functools.cache(self._bytes_of)
        self.text_of = functools.lru_cache(maxsize=65536)(self._text_of)

    def decode(self, ids: list[int]) -> str:
        """The tokenizer's own text of `ids`, special tokens left out."""
        if self._backend is not None:
            return self._backend.decode(ids, skip_special_tokens=True)
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _token(self, token_id: int) -> str | None:
        """The token as the vocabulary writes it; None where there is no such id."""
        if self._backend is not None:
            return self._backend.id_to_token(token_id)
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        return token if isinstance(token, str) else None

    def _byte_of(self, token_id: int) -> int | None:
        """The byte that a byte token stands for."""
        match = _BYTE_TOKEN.fullmatch(self._token(token_id) or "")
        return int(match[1], 16) if match else None

    def _bytes_of(self, token_id: int) -> bytes:
        """The bytes of a token of a byte-level vocabulary; none for special tokens."""
        return b"" if token_id in self._skipped else _token_bytes(self._token(token_id) or "")

    def _text_of(self, token_id: int) -> str:
        """The text of one token in the middle of a text."""
        token = self._token(token_id)
        if token_id in self._skipped:
            return token or ""
        if self.is_byte_level:
            return _token_bytes(token or "").decode(errors="replace")
        anchor = self._anchor
        if anchor is None or self.byte_of(token_id) is not None:
            return self.decode([token_id])
        return self.decode([anchor, token_id])[len(self.decode([anchor])) :]

    @functools.cached_property
    def _anchor(self) -> int | None:
        """A token of visible text, after which a leading blank is not dropped."""
        ids = (i for i in range(len(self._tokenizer)) if i not in self._skipped)
        return next((i for i in ids if self.decode([i]).strip(" " + REPLACEMENT)), None)


@functools.lru_cache(maxsize=8)
def _vocabulary(tokenizer: Any) -> _Vocabulary:
    """The vocabulary of a tokenizer, shared by all its texts."""
    return _Vocabulary(tokenizer)


def _skipped_ids(tokenizer: Any) -> frozenset[int]:
    """The ids that have no place in a text."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(i for i, token in added if token.special) | frozenset(
        tokenizer.all_special_ids
    )


def _is_byte_level(decoder: Any) -> bool:
    """Whether a decoder of the tokenizers library does nothing but join bytes."""
    if decoder is None:
        return False
    record = json.loads(decoder.__getstate__())
    steps = record["decoders"] if record["type"] == "Sequence" else [record]
    return bool(steps) and all(step["type"] == "ByteLevel" for step in steps)


def _token_bytes(token: str) -> bytes:
    """The bytes of a byte-level token; one with a foreign character stands for itself."""
    byte_of = _byte_alphabet()
    try:
        return bytes([byte_of[character] for character in token])
    except KeyError:
        return token.encode()


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """Character -> byte in GPT-2's byte-level alphabet.

    Printable Latin-1 stands for itself, the 68 other bytes for the code points from 256 on, in
    order (openai/gpt-2, encoder.py).
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }
