"""What a message says is text, and only the template's own marks are special tokens.

A conversation becomes one text before it is tokenized, in which both look alike. So what a
message spells is hidden first, the template then writes the conversation, its special tokens
become private tokens, and what was hidden comes back as the letters it is.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fastchat.message import Message
from fastchat.model.tokenizer_file import AddedMark

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class SpecialText:
    """Tells the special tokens of one tokenizer from letters that look like them.

    Nobody can write what it puts into a text: it holds a key of this object's own.

    Args:
        specials: the tokenizer's special tokens, each with its text.
    """

    def __init__(self, specials: Sequence[AddedMark]) -> None:
        # Longest first, so that a token is never taken for a shorter one it contains.
        self.specials = tuple(sorted(specials, key=lambda one: len(one.text), reverse=True))
        texts = [one.text for one in self.specials]
        key = secrets.token_hex(8)
        self._marks = {text: f"\ue000{key}:{i}\ue001" for i, text in enumerate(texts)}
        self._guards = {text: f"\ue002{key}:{i}\ue003" for i, text in enumerate(texts)}
        self._guarded = {guard: text for text, guard in self._guards.items()}
        self._any_special = re.compile("|".join(map(re.escape, texts)) or r"(?!)")
        self._any_guard = re.compile(f"\ue002{key}:[0-9]+\ue003")

    def mark_of(self, text: str | None) -> str | None:
        """What stands for a special token in a marked text; None for any other text."""
        return None if text is None else self._marks.get(text)

    def hidden(self, message: Message) -> Message:
        """The message, the special tokens that it spells hidden from `marked`."""
        text, n_found = self._any_special.subn(self._guard_of, message.text)
        return replace(message, text=text) if n_found else message

    def marked(self, text: str) -> str:
        """A rendered text, special tokens as marks and what was hidden as the letters it is."""
        text = self._any_special.sub(self._mark_found, text)
        return self._any_guard.sub(self._letters_of, text)

    def add_to(self, tokenizer: "Tokenizer") -> None:
        """Makes a tokenizer read marks as tokens, and special tokens in a text as letters.

        A mark takes blanks beside it as the token does that it stands for.
        """
        from tokenizers import AddedToken

        tokenizer.encode_special_tokens = True
        tokenizer.add_tokens(
            [
                AddedToken(
                    self._marks[one.text],
                    lstrip=one.lstrip,
                    rstrip=one.rstrip,
                    single_word=False,
                    normalized=False,
                    special=False,
                )
                for one in self.specials
            ]
        )

    def _guard_of(self, found: re.Match[str]) -> str:
        return self._guards[found[0]]

    def _mark_found(self, found: re.Match[str]) -> str:
        return self._marks[found[0]]

    def _letters_of(self, found: re.Match[str]) -> str:
        return self._guarded[found[0]]
