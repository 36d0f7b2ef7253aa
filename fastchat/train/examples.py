"""Record -> token ids and labels, by the segments of a template.

The whole text is tokenized once; a token carries loss exactly when its characters overlap a
learned segment. So the rule is the same for every template and every tokenizer, and nothing
is searched for afterwards. What a message says is text: an end mark inside it stays letters,
and only the template's own marks become special tokens.

Knows no model and no trainer.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastchat.data.records import GPT, HUMAN, Record, Rejected
from fastchat.errors import DataError, UsageError
from fastchat.message import Message
from fastchat.template import Segment

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding

IGNORED = -100
"""Label of a position that carries no loss."""

Ids = npt.NDArray[np.int32]
Render = Callable[[Sequence[Message]], Sequence[Segment]]
"""What a template does with messages, a system message among them where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One conversation as the model sees it."""

    input_ids: Ids
    """(length,)"""
    labels: Ids
    """(length,), the ids that are learned and `IGNORED` elsewhere; the model shifts them."""
    n_cut: int = 0
    """Tokens that did not fit the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Characters of a text, from `start` up to `end`."""

    start: int
    end: int


def messages_of(record: Record) -> list[Message] | str:
    """The messages to learn from, or the reason why there are none.

    A first message that is not the human's is dropped, and a last one that is the human's,
    since nothing follows it.
    """
    turns = list(record.turns)
    for turn in turns:
        if turn.speaker not in (HUMAN, GPT):
            return "unknown role"
    if turns and turns[0].speaker != HUMAN:
        turns = turns[1:]
    for i, turn in enumerate(turns):
        if turn.speaker != (HUMAN, GPT)[i % 2]:
            return "roles do not alternate"
    if turns and turns[-1].speaker == HUMAN:
        turns = turns[:-1]
    if not turns:
        return "no reply"
    if any(turn.speaker == GPT and not turn.text.strip() for turn in turns):
        return "empty reply"
    messages = [
        Message(role="user" if turn.speaker == HUMAN else "assistant", text=turn.text)
        for turn in turns
    ]
    if record.system is not None:
        messages.insert(0, Message(role="system", text=record.system))
    return messages


class Labeller:
    """Turns messages into ids and labels for one tokenizer and one template.

    Args:
        tokenizer: one of transformers' fast tokenizers, which know where a token stood.
        render: messages -> segments.
        max_length: ids and labels are cut to this many from the right.
    """

    def __init__(self, tokenizer: Any, render: Render, *, max_length: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError(
                f"{type(tokenizer).__name__} does not tell where a token stood in the text, which "
                "the loss mask needs; use a model with a fast tokenizer (tokenizer.json)."
            )
        from tokenizers import AddedToken, Tokenizer

        self.render = render
        self.max_length = max_length
        specials = {
            token.content: (number, token)
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special and token.content
        }
        self.bos: str | None = tokenizer.bos_token
        # Longest first, so that a mark is never taken for a shorter one it contains.
        self.specials: list[str] = sorted(specials, key=len, reverse=True)
        # Nobody can write these into a message: they stand for the template's own marks
        # while specials of the messages are letters to the tokenizer.
        key = secrets.token_hex(8)
        self.marks = {text: f"\ue000{key}:{i}\ue001" for i, text in enumerate(self.specials)}
        self.guards = {text: f"\ue002{key}:{i}\ue003" for i, text in enumerate(self.specials)}
        # A tokenizer of our own: neither padding nor truncation of the caller's reaches it.
        self.backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = True
        self.backend.add_tokens(
            [
                AddedToken(
                    self.marks[text],
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    single_word=False,
                    normalized=False,
                    special=False,
                )
                for text, (_, token) in specials.items()
            ]
        )
        n_ids = self.backend.get_vocab_size(with_added_tokens=True)
        self.real_ids = np.arange(max(n_ids, max(tokenizer.added_tokens_decoder, default=0) + 1))
        for text, (number, _) in specials.items():
            self.real_ids[self.backend.token_to_id(self.marks[text])] = number

    def text(self, messages: Sequence[Message]) -> str:
        """The text of the messages as the template writes it."""
        return "".join(segment.text for segment in self.render(messages))

    def label(self, conversations: Sequence[Sequence[Message]]) -> list[Example]:
        """The ids and labels of several conversations, tokenized in one call."""
        texts: list[str] = []
        learned: list[list[Span]] = []
        for messages in conversations:
            text, spans = self._marked(messages)
            texts.append(text)
            learned.append(spans)
        encodings = self.backend.encode_batch(texts) if texts else []
        return [
            self._example(encoding, text=text, learned=spans)
            for encoding, text, spans in zip(encodings, texts, learned, strict=True)
        ]

    def _marked(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The text with the template's specials as marks, and what is learned of it."""
        segments = self.render([self._guarded(message) for message in messages])
        text = ""
        spans: list[Span] = []
        for segment in segments:
            piece = segment.text
            for special in self.specials:
                piece = piece.replace(special, self.marks[special])
            for special, guard in self.guards.items():
                piece = piece.replace(guard, special)
            if segment.learned and piece:
                spans.append(Span(start=len(text), end=len(text) + len(piece)))
            text += piece
        return text, spans

    def _guarded(self, message: Message) -> Message:
        """The message with specials in it hidden from the search for the template's own."""
        text = message.text
        for special, guard in self.guards.items():
            text = text.replace(special, guard)
        return message if text is message.text else Message(role=message.role, text=text)

    def _example(self, encoding: "Encoding", *, text: str, learned: Sequence[Span]) -> Example:
        """The ids of a tokenized text, and labels where characters overlap what is learned."""
        ids = self.real_ids[np.asarray(encoding.ids)].astype(np.int32)
        offsets = np.asarray(encoding.offsets).reshape(-1, 2)
        added = np.asarray(encoding.special_tokens_mask, dtype=bool)
        start, end = offsets[:, 0], offsets[:, 1]
        # Some tokenizers leave blanks out of a token's characters; one of blanks alone has
        # then no width and belongs to where it stands.
        end = np.maximum(end, start + 1)
        carries_loss = np.zeros(len(ids), dtype=bool)
        for span in learned:
            carries_loss |= (start < span.end) & (end > span.start)
        if self.bos and added[:1].any() and text.startswith(self.marks.get(self.bos, "\0")):
            # The template wrote the first mark itself; the tokenizer must not add another.
            ids, carries_loss, added = ids[1:], carries_loss[1:], added[1:]
        labels = np.where(carries_loss & ~added, ids, IGNORED).astype(np.int32)
        return Example(
            input_ids=ids[: self.max_length],
            labels=labels[: self.max_length],
            n_cut=max(0, len(ids) - self.max_length),
        )


class Examples:
    """What the trainer draws from: as long as the data, by index, each item an example.

    Eager: all are tokenized at once. Lazy: each when it is asked for, and the latest
    `n_cached` are kept; only those so long that the window may hold no reply are looked at
    beforehand. Either way nothing in here has nothing to learn: such records are counted in
    `dropped` under their reason.
    """

    n_cached = 4096

    def __init__(
        self,
        records: Iterable[Record | Rejected],
        labeller: Labeller,
        *,
        lazy: bool = False,
        drop_overlong: bool = False,
    ) -> None:
        self.labeller = labeller
        self.drop_overlong = drop_overlong
        self.dropped: dict[str, int] = {}
        self.n_read = 0
        self.n_cut = 0
        self._conversations: list[list[Message]] = []
        self._examples: list[Example] = []
        self._cache: OrderedDict[int, Example] = OrderedDict()
        self._lazy = lazy
        batch: list[list[Message]] = []
        for record in records:
            self.n_read += 1
            messages = record.reason if isinstance(record, Rejected) else messages_of(record)
            if isinstance(messages, str):
                self._drop(messages)
            elif lazy and not self._may_overflow(messages):
                self._conversations.append(messages)
            else:
                batch.append(messages)
                if len(batch) == 512:
                    self._take(batch)
                    batch = []
        self._take(batch)

    def __len__(self) -> int:
        return len(self._conversations) if self._lazy else len(self._examples)

    def __getitem__(self, index: int) -> Example:
        if not self._lazy:
            return self._examples[index]
        if (example := self._cache.get(index)) is None:
            [example] = self.labeller.label([self._conversations[index]])
            self._cache[index] = example
            if len(self._cache) > self.n_cached:
                self._cache.popitem(last=False)
        return example

    @property
    def n_dropped(self) -> int:
        """Records that are not learned from."""
        return sum(self.dropped.values())

    def lengths(self) -> list[int]:
        """Tokens of every example; where nothing is tokenized yet, its characters."""
        if not self._lazy:
            return [len(example.input_ids) for example in self._examples]
        return [sum(len(message.text) for message in talk) for talk in self._conversations]

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def _may_overflow(self, messages: Sequence[Message]) -> bool:
        """Whether the window might be too short: a token has at least one byte of text."""
        return len(self.labeller.text(messages).encode()) + 2 > self.labeller.max_length

    def _take(self, batch: Sequence[list[Message]]) -> None:
        """Tokenizes a batch and keeps what can be learned from."""
        for messages, example in zip(batch, self.labeller.label(batch), strict=True):
            if example.n_cut and self.drop_overlong:
                self._drop("longer than the window")
            elif not (example.labels != IGNORED).any():
                self._drop("no reply within the window")
            else:
                self.n_cut += bool(example.n_cut)
                if self._lazy:
                    self._conversations.append(messages)
                else:
                    self._examples.append(example)


def check_enough_to_learn(examples: Examples, *, path: str, max_share: float) -> None:
    """Stops a training that would learn nothing, or much less than its data promises.

    Raises:
        DataError: no record is left, or more than `max_share` of them were dropped.
    """
    reasons = ", ".join(f"{reason}: {n}" for reason, n in sorted(examples.dropped.items()))
    if not len(examples):
        raise DataError(
            f"{path} holds nothing to learn from: {examples.n_read} records"
            + (f" ({reasons})." if reasons else ".")
        )
    if examples.n_dropped > max_share * examples.n_read:
        raise DataError(
            f"{examples.n_dropped} of {examples.n_read} records in {path} have nothing to learn "
            f"({reasons}). Repair the data, raise --model_max_length if the window is too short, "
            f"or allow a greater share than {max_share:g} with --max_masked_share."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Collator:
    """A batch of examples as tensors, padded to its longest.

    Padding is known by position, never by an id: any id may also occur in a text.
    """

    pad_id: int
    padding_side: str = "right"

    def __call__(self, examples: Sequence[Example]) -> dict[str, "torch.Tensor"]:
        """`input_ids`, `labels` and `attention_mask`, each (batch, longest) int64."""
        import torch

        shape = (len(examples), max(len(example.input_ids) for example in examples))
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, example in enumerate(examples):
            n = len(example.input_ids)
            place = slice(0, n) if self.padding_side == "right" else slice(shape[1] - n, None)
            ids[row, place] = example.input_ids
            labels[row, place] = example.labels
            mask[row, place] = 1
        return {
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels),
            "attention_mask": torch.from_numpy(mask),
        }
