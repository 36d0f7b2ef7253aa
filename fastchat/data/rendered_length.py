"""How long a conversation is for training: rendered by its template, then tokenized as there.

What a message says is text: an end mark inside it stays letters, and only the template's own
marks become special tokens, so the length here is the number of ids that training makes.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from fastchat.data.token_counts import TokenCounter
from fastchat.errors import UsageError
from fastchat.message import Message
from fastchat.model.special_text import SpecialText
from fastchat.model.tokenizer_file import AddedMark, TokenizerFile
from fastchat.template import Template

Round = tuple[Message, Message]
"""A question with its answer."""
Pieces = Callable[[Sequence[Message], Sequence[Round]], list[str]]
"""System messages and rounds -> the rendered text in pieces: what stands before the rounds,
then one for each; a single piece where rounds do not stand one behind the other. The pieces
put together are the text."""

N_CHECKED = 32
"""Conversations whose estimate is compared with their true length at the beginning."""


class RenderedLength:
    """Lengths of conversations for one tokenizer and one way of writing them."""

    def __init__(self, tokenizer: TokenizerFile, pieces: Pieces) -> None:
        self._pieces = pieces
        self._special = SpecialText(tokenizer.specials)
        self._bos = self._special.mark_of(tokenizer.bos)
        self._tokenizer = tokenizer.open()
        self._special.add_to(self._tokenizer)
        added = [
            AddedMark(
                id=mark.id,
                text=self._special.mark_of(mark.text) or mark.text,
                special=mark.special,
                lstrip=mark.lstrip,
                rstrip=mark.rstrip,
            )
            for mark in tokenizer.added
        ]
        self._counter = TokenCounter(self._tokenizer, added)
        self._n_ends = len(self._tokenizer.encode("").ids)
        self._n_unchecked = N_CHECKED
        self._is_estimated = True

    def length(self, system: Sequence[Message], rounds: Sequence[Round]) -> int:
        """The number of ids that training makes of these rounds."""
        text = "".join(self._marked(system, rounds))
        [encoding] = self._tokenizer.encode_batch_fast([text])
        return len(encoding) - self._is_begun(text)

    def estimates(self, system: Sequence[Message], rounds: Sequence[Round]) -> list[int]:
        """The lengths of what stands before the rounds and of each round.

        Their sum over some rounds differs from `length` by at most a few tokens a round, for
        the places where rounds meet.
        """
        if not self._is_estimated:
            return self._true_parts(system, rounds)
        pieces = self._marked(system, rounds)
        if len(pieces) != len(rounds) + 1:
            return self._true_parts(system, rounds)
        head, *rest = pieces
        # What ends a round is the same for all of them; its last letters suffice to tell how
        # the next one begins.
        tail = _tail(rest[0]) if rest else ""
        n_head = self._counter.counts([head])[0] + self._n_ends - self._is_begun(head)
        result = [n_head, *self._counter.counts(rest[:1], after=_tail(head))]
        result += self._counter.counts(rest[1:], after=tail)
        if self._n_unchecked > 0:
            self._n_unchecked -= 1
            if abs(sum(result) - self.length(system, rounds)) > slack(len(rounds)) // 2:
                self._is_estimated = False
                return self._true_parts(system, rounds)
        return result

    def _true_parts(self, system: Sequence[Message], rounds: Sequence[Round]) -> list[int]:
        n_head = self.length(system, [])
        return [n_head, *(self.length(system, [one]) - n_head for one in rounds)]

    def _is_begun(self, text: str) -> int:
        """1 where both the template and the tokenizer begin the text, which training does not."""
        return int(self._n_ends > 0 and self._bos is not None and text.startswith(self._bos))

    def _marked(self, system: Sequence[Message], rounds: Sequence[Round]) -> list[str]:
        """The pieces with the template's special tokens as marks."""
        hidden = self._special.hidden
        pieces = self._pieces(
            [hidden(message) for message in system],
            [(hidden(asked), hidden(answer)) for asked, answer in rounds],
        )
        return [self._special.marked(piece) for piece in pieces]


def slack(n_rounds: int) -> int:
    """How far the sum of the estimates of so many rounds may be from their true length.

    Where rounds meet, a token may reach over, or two that would be one stand alone.
    """
    return 4 + n_rounds


def pieces_of_template(template: Template) -> Pieces:
    """The pieces that a template of the registry writes."""

    def pieces(system: Sequence[Message], rounds: Sequence[Round]) -> list[str]:
        messages = [*system, *(message for one in rounds for message in one)]
        segments = template.render(messages)
        starts = [i for i, segment in enumerate(segments) if segment.role == "user"]
        starts = starts[len(starts) - len(rounds) :] if rounds else []
        texts = [segment.text for segment in segments]
        ends = [*starts, len(segments)]
        found = ["".join(texts[: ends[0]])]
        return found + ["".join(texts[a:b]) for a, b in pairwise(ends)]

    if template.layout == "last_turns":
        raise UsageError(
            f"template {template.name!r} writes the last round only, so its conversations are "
            "never too long; choose another with --conv-template."
        )
    return pieces


def pieces_of_chat_template(
    tokenizer_file: TokenizerFile, source: str | None, *, trust_remote_code: bool = False
) -> Pieces:
    """The pieces that a tokenizer's own chat template writes, or the one in `source`."""
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        tokenizer_file.path, trust_remote_code=trust_remote_code
    )
    if source is None and not tokenizer.chat_template:
        raise UsageError(
            f"the tokenizer of {tokenizer_file.name} brings no chat template; "
            "name one of ours with --conv-template."
        )

    def text(messages: Sequence[Message]) -> str:
        turns = [{"role": message.role, "content": message.text} for message in messages]
        try:
            return tokenizer.apply_chat_template(turns, chat_template=source, tokenize=False)
        except (TemplateError, OverflowError, TypeError, ValueError, KeyError) as error:
            raise UsageError(f"the chat template refuses a conversation: {error}") from error

    def pieces(system: Sequence[Message], rounds: Sequence[Round]) -> list[str]:
        messages = list(system)
        begun = ""
        found = [""]
        for one in rounds:
            messages += one
            written = text(messages)
            if not written.startswith(begun):
                # A later round changes how earlier ones are written: one piece for all.
                return [text([*system, *(message for one in rounds for message in one)])]
            found.append(written[len(begun) :])
            begun = written
        return found

    return pieces


def _tail(text: str) -> str:
    """The end of a piece: its last mark, or its last letters."""
    return text[text.rindex("\ue000") :] if text.endswith("\ue001") else text[-2:]
