"""Record -> token ids and labels, by the segments of a template.

The whole text is tokenized once; a token carries loss exactly when its characters overlap a
learned segment. So the rule is the same for every template and every tokenizer, and nothing
is searched for afterwards. What a message says is text: an end mark inside it stays letters,
and only the template's own marks become special tokens.

Knows no model, no trainer and no files.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fastchat.data.records import GPT, HUMAN, Record, Turn
from fastchat.errors import UsageError
from fastchat.message import Message
from fastchat.model.special_text import SpecialText
from fastchat.model.tokenizer_file import AddedMark
from fastchat.template import Segment

if TYPE_CHECKING:
    from tokenizers import Encoding

IGNORED = -100
"""Label of a position that carries no loss."""

LossOn = Literal["all_replies", "last_reply", "each_reply", "all_tokens"]
"""What of a conversation is learned: every reply, the last one only, every reply as an example
of its own with all before it as its prompt, or every token, whoever wrote it."""

Overlong = Literal["truncate", "drop", "split"]

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
    n_cut_learned: int = 0
    """How many of those carried loss."""

    @property
    def n_learned(self) -> int:
        """Positions that carry loss; the first is never predicted."""
        return int((self.labels[1:] != IGNORED).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """Messages, and which of them are learned."""

    messages: tuple[Message, ...]
    """A system message first where there is one, then human and assistant in turn."""
    learned: tuple[bool, ...]
    """One for each message."""
    whole: bool = False
    """Whether the marks between messages are learned too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Characters of a text, from `start` up to `end`."""

    start: int
    end: int


def messages_of(record: Record) -> list[Message] | str:
    """The messages to learn from, or the reason why there are none."""
    turns = _turns_of(record)
    return turns if isinstance(turns, str) else _messages(record, turns)


def lessons_of(record: Record, *, loss_on: LossOn = "all_replies") -> list[Lesson] | str:
    """What a record teaches, or the reason why it teaches nothing.

    A first message that is not the human's is dropped, and a last one that is the human's,
    since nothing follows it. A message with `weight: 0` or `train: false` is not learned.
    """
    turns = _turns_of(record)
    if isinstance(turns, str):
        return turns
    wanted = [_is_wanted(turn) for turn in turns]
    if None in wanted:
        return "weight is neither 0 nor 1"
    messages = tuple(_messages(record, turns))
    flags = [False] * (len(messages) - len(turns)) + [bool(flag) for flag in wanted]
    replies = [i for i, m in enumerate(messages) if m.role == "assistant" and flags[i]]
    if not replies:
        return "no message to learn"
    match loss_on:
        case "all_tokens":
            flags[: len(messages) - len(turns)] = [True] * (len(messages) - len(turns))
            return [Lesson(messages=messages, learned=tuple(flags), whole=all(flags))]
        case "all_replies":
            return [_lesson(messages, replies)]
        case "last_reply":
            last = len(messages) - 1
            return [_lesson(messages, [last])] if flags[last] else "no message to learn"
        case "each_reply":
            return [_lesson(messages[: i + 1], [i]) for i in replies]


def _turns_of(record: Record) -> list[Turn] | str:
    """The turns that alternate and end with a reply, or what is wrong with them."""
    turns = list(record.turns)
    if any(turn.speaker not in (HUMAN, GPT) for turn in turns):
        return "unknown role"
    if turns and turns[0].speaker != HUMAN:
        turns = turns[1:]
    if any(turn.speaker != (HUMAN, GPT)[i % 2] for i, turn in enumerate(turns)):
        return "roles do not alternate"
    if turns and turns[-1].speaker == HUMAN:
        turns = turns[:-1]
    if not turns:
        return "no reply"
    if any(turn.speaker == GPT and not turn.text.strip() for turn in turns):
        return "empty reply"
    return turns


def _messages(record: Record, turns: Sequence[Turn]) -> list[Message]:
    """The turns as messages, after the record's own system message where there is one."""
    messages = [
        Message(role="user" if turn.speaker == HUMAN else "assistant", text=turn.text)
        for turn in turns
    ]
    if record.system is not None:
        messages.insert(0, Message(role="system", text=record.system))
    return messages


def _is_wanted(turn: Turn) -> bool | None:
    """Whether the record's author wants the message learned; None for an unusable weight."""
    if not turn.extra:
        return True
    weight, train = turn.extra.get("weight", 1), turn.extra.get("train", True)
    if weight not in (0, 1) or train not in (True, False):
        return None
    return bool(weight) and bool(train)


def _lesson(messages: tuple[Message, ...], learned: Sequence[int]) -> Lesson:
    """A lesson of the messages with these numbers."""
    return Lesson(messages=messages, learned=tuple(i in learned for i in range(len(messages))))


class Labeller:
    """Turns lessons into ids and labels for one tokenizer and one template.

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
        from tokenizers import Tokenizer

        self.render = render
        self.max_length = max_length
        self.special = SpecialText(special_marks(tokenizer))
        self.first_mark = self.special.mark_of(tokenizer.bos_token)
        # A tokenizer of our own: neither padding nor truncation of the caller's reaches it.
        self.backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.backend.no_truncation()
        self.backend.no_padding()
        self.special.add_to(self.backend)
        n_ids = self.backend.get_vocab_size(with_added_tokens=True)
        self.real_ids = np.arange(
            max(n_ids, max(tokenizer.added_tokens_decoder, default=0) + 1), dtype=np.int32
        )
        for one in self.special.specials:
            self.real_ids[self.backend.token_to_id(self.special.mark_of(one.text) or "")] = one.id
        self.before, self.after = self._added_ids()

    def __getstate__(self) -> dict[str, Any]:
        # Without it, a tokenizer that arrives in another process takes text for specials.
        return self.__dict__ | {"backend": self.backend.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        self.__dict__ |= state
        self.backend = Tokenizer.from_str(state["backend"])
        self.backend.encode_special_tokens = True

    def text(self, messages: Sequence[Message]) -> str:
        """The text of the messages as the template writes it."""
        return "".join(segment.text for segment in self.render(messages))

    def label(self, lessons: Sequence[Lesson | Sequence[Message]]) -> list[Example]:
        """The ids and labels of several conversations, tokenized in one call.

        Of bare messages every reply is learned.
        """
        marked = [self._marked(lesson) for lesson in lessons]
        encodings = self.backend.encode_batch(
            [text for text, _ in marked], add_special_tokens=False
        )
        return [
            self._example(encoding, text=text, learned=spans)
            for encoding, (text, spans) in zip(encodings, marked, strict=True)
        ]

    def _added_ids(self) -> tuple[Ids, Ids]:
        """What the tokenizer puts before and after every text by itself."""
        bare = self.backend.encode("a", add_special_tokens=False).ids
        full = self.backend.encode("a", add_special_tokens=True).ids
        for n in range(len(full) - len(bare) + 1):
            if full[n : n + len(bare)] == bare:
                before, after = full[:n], full[n + len(bare) :]
                return np.array(before, dtype=np.int32), np.array(after, dtype=np.int32)
        raise UsageError("this tokenizer changes the text that it adds its own marks to.")

    def _marked(self, lesson: Lesson | Sequence[Message]) -> tuple[str, list[Span]]:
        """The text with the template's specials as marks, and what is learned of it."""
        messages = lesson.messages if isinstance(lesson, Lesson) else lesson
        segments = self.render([self.special.hidden(message) for message in messages])
        learned = self._learned(segments, lesson)
        text = ""
        spans: list[Span] = []
        for segment, is_learned in zip(segments, learned, strict=True):
            piece = self.special.marked(segment.text)
            if is_learned and piece:
                joins = spans and spans[-1].end == len(text)
                start = spans.pop().start if joins else len(text)
                spans.append(Span(start=start, end=len(text) + len(piece)))
            text += piece
        return text, spans

    def _learned(
        self, segments: Sequence[Segment], lesson: Lesson | Sequence[Message]
    ) -> list[bool]:
        """Whether each segment is learned.

        A template may leave early messages out and precede them with examples of its own, but
        the last ones are always there: segments and messages are matched from the end.
        """
        if not isinstance(lesson, Lesson):
            return [segment.learned for segment in segments]
        if lesson.whole:
            return [True] * len(segments)
        wanted: dict[str, list[bool]] = {"system": [], "user": [], "assistant": []}
        for message, flag in zip(lesson.messages, lesson.learned, strict=True):
            wanted[message.role].append(flag)
        result: list[bool] = []
        for segment in reversed(segments):
            flags = wanted[segment.role]
            holds_message = segment.learned or segment.role != "assistant"
            result.append(bool(flags and holds_message and flags.pop()))
        return result[::-1]

    def _example(self, encoding: "Encoding", *, text: str, learned: Sequence[Span]) -> Example:
        """The ids of a tokenized text, and labels where characters overlap what is learned."""
        ids = self.real_ids[encoding.ids]
        labels = np.full(len(ids), IGNORED, dtype=np.int32)
        for first, last in _tokens_over(encoding, len(ids), spans=learned):
            labels[first:last] = ids[first:last]
        before = self.before
        if self.first_mark and len(before) and text.startswith(self.first_mark):
            # The template wrote the first mark itself; the tokenizer must not add another.
            before = before[1:]
        ids = np.concatenate([before, ids, self.after])
        labels = np.concatenate(
            [np.full_like(before, IGNORED), labels, np.full_like(self.after, IGNORED)]
        )
        over = labels[self.max_length :]
        return Example(
            input_ids=ids[: self.max_length],
            labels=labels[: self.max_length],
            n_cut=len(over),
            n_cut_learned=int((over != IGNORED).sum()),
        )


def special_marks(tokenizer: Any) -> list[AddedMark]:
    """The special tokens of one of transformers' tokenizers."""
    return [
        AddedMark(
            id=number,
            text=token.content,
            special=True,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            single_word=token.single_word,
        )
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and token.content
    ]


def _tokens_over(
    encoding: "Encoding", n_tokens: int, *, spans: Sequence[Span]
) -> Iterator[tuple[int, int]]:
    """For every span the first token that overlaps it, and the one after the last.

    Tokens stand in the order of the text, so a search by halves asks for few of them: reading
    all offsets would take a third of the time of tokenizing.
    """

    def first_token(is_past: Callable[[tuple[int, int]], bool], start: int) -> int:
        low, high = start, n_tokens
        while low < high:
            middle = (low + high) // 2
            if is_past(encoding.token_to_chars(middle) or (0, 0)):
                high = middle
            else:
                low = middle + 1
        return low

    first = 0
    for span in spans:
        # Some tokenizers leave blanks out of a token's characters; one of blanks alone has
        # then no width and belongs to where it stands.
        first = first_token(lambda at: max(at[1], at[0] + 1) > span.start, first)  # noqa: B023
        yield first, first_token(lambda at: at[0] >= span.end, first)  # noqa: B023


def parts_of(lesson: Lesson, labeller: Labeller) -> list[Lesson]:
    """A lesson that may exceed the window, as parts of whole rounds that fit it.

    A round that is too long by itself is a part of its own, which is then cut. Every part
    begins with the system message.
    """
    n_system = sum(message.role == "system" for message in lesson.messages)
    n_rounds = (len(lesson.messages) - n_system) // 2
    head, head_learned = lesson.messages[:n_system], lesson.learned[:n_system]

    def part(start: int, end: int) -> Lesson:
        rounds = slice(n_system + 2 * start, n_system + 2 * end)
        return Lesson(
            messages=head + lesson.messages[rounds],
            learned=head_learned + lesson.learned[rounds],
            whole=lesson.whole,
        )

    parts: list[Lesson] = []
    start = 0
    while start < n_rounds:
        low, high = start + 1, n_rounds
        while low < high:  # the most rounds that fit
            middle = (low + high + 1) // 2
            [example] = labeller.label([part(start, middle)])
            low, high = (low, middle - 1) if example.n_cut else (middle, high)
        parts.append(part(start, low))
        start = low
    return [part for part in parts if any(part.learned)]
