"""Template: data that turns a conversation into pieces of text. No file is read here.

A layout is seven strings: the system text with and without a message, what stands before and
after a user's and an assistant's message, and the open slot that invites the answer. Where
the records come from is the business of `fastchat.families`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from fastchat.errors import DataError, UsageError
from fastchat.message import Message

Speaker = Literal["system", "user", "assistant"]
Layout = Literal["turns", "last_turns", "joined", "remote"]
TextRule = Literal["as_is", "strip", "fold_newlines"]

DATE_HOLES = {
    "{{currentDateTime}}": "%Y-%m-%d",
    "{{currentDateTimev2}}": "%d %b %Y",
    "{{currentDateTimev3}}": "%B %Y",
}


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt. The prompt is the segments' texts, one after the other."""

    text: str
    role: Speaker
    learned: bool
    """Whether a model in training learns to write it: an answer with its closing mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The template as outside clients of `/worker_get_conv_template` expect it."""

    roles: tuple[str, ...] = ("user", "assistant")
    sep_style: int | None = None
    sep: str | None = None
    sep2: str | None = None
    system_template: str = "{system_message}"
    max_image_size_mb: float | None = None
    """Images above it are scaled down before they are sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How a kind of model wants its conversations written."""

    name: str
    system: str = "{system}"
    """Start of the prompt with a system message, which fills the hole."""
    system_empty: str = ""
    """Start of the prompt without a system message."""
    system_message: str = ""
    """The system message of a conversation that brings none. May hold `DATE_HOLES`."""
    system_message_vision: str = ""
    """The same for a conversation with images, where it differs."""
    user: tuple[str, str] = ("", "")
    """What stands before and after; `{round}` counts the user's messages."""
    first_user: tuple[str, str] | None = None
    """The same for the very first message, where it differs."""
    first_round: int = 0
    assistant: tuple[str, ...] = ("", "")
    """What stands before and after an answer, and, third, what only parts it from the next turn."""
    open: str = ""
    """What invites the answer; `assistant` begins with it."""
    text: TextRule = "as_is"
    """What is done to a message's text: `strip` outer blanks, or `fold_newlines`."""
    layout: Layout = "turns"
    """`turns`: every message; `last_turns`: the last two only; `joined`: marks between messages
    but not after the last, which `open` ends; `remote`: a service that takes messages, no text."""
    image: str = "$$<image>$$"
    """What stands for a picture, before the text of its message."""
    examples: tuple[tuple[str, str], ...] = ()
    """Questions and answers that precede every conversation and are not shown."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    published: Published = Published()
    source: str = ""
    """Where the model's makers describe the format."""

    def __post_init__(self) -> None:
        if len(self.assistant) not in (2, 3):
            raise DataError(f"template {self.name!r}: assistant needs two or three strings")
        if self.layout != "joined" and not self.assistant[0].startswith(self.open):
            raise DataError(
                f"template {self.name!r}: assistant begins with {self.assistant[0]!r}, "
                f"which does not continue open = {self.open!r}"
            )

    @property
    def example_messages(self) -> tuple[Message, ...]:
        """The examples as turns of a conversation."""
        return tuple(
            message
            for question, answer in self.examples
            for message in (
                Message(role="user", text=question),
                Message(role="assistant", text=answer),
            )
        )

    def render(
        self,
        messages: Sequence[Message],
        *,
        open_slot: bool = False,
        with_examples: bool = True,
        now: datetime | None = None,
    ) -> list[Segment]:
        """The segments of a conversation.

        messages: system messages, wherever they stand, are joined into the system text; an
        assistant message without text at the very end is the open slot.
        open_slot: ends with the open slot, so that a model answers.
        with_examples: begins with the template's examples, unless `messages` hold them already.
        now: fills the date holes of the template's own system message.
        Raises UsageError when the template has no prompt text, or no place for a message.
        """
        if self.layout == "remote":
            raise UsageError(
                f"template {self.name!r} belongs to a remote service and has no prompt text; "
                "send the messages to its API, or choose another template"
            )
        turns = [message for message in messages if message.role != "system"]
        if with_examples:
            turns = [*self.example_messages, *turns]
        n_examples = 2 * len(self.examples) if with_examples else 0
        if turns and _is_open(turns[-1]):
            turns.pop()
            open_slot = True
        if open_slot and self.layout != "joined":
            turns.append(Message(role="assistant", text=""))
        n_left_out = max(0, len(turns) - 2) if self.layout == "last_turns" else 0

        segments = [Segment(self._system_text(messages, now), "system", False)]
        n_rounds = self.first_round
        for i, turn in enumerate(turns):
            if i >= n_left_out:
                is_last = i + 1 == len(turns)
                for piece in self._turn(turn, is_first=i == 0, is_last=is_last, n_rounds=n_rounds):
                    learned = piece.learned and i >= n_examples
                    segments.append(Segment(piece.text, piece.role, learned))
            n_rounds += turn.role == "user"
        if self.layout == "joined":
            segments.append(Segment(self.open, "assistant", False))
        return [segment for segment in segments if segment.text]

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        open_slot: bool = True,
        with_examples: bool = True,
        now: datetime | None = None,
    ) -> str:
        """The text of a conversation, by default with the slot for the answer open."""
        segments = self.render(messages, open_slot=open_slot, with_examples=with_examples, now=now)
        return "".join(segment.text for segment in segments)

    def _system_text(self, messages: Sequence[Message], now: datetime | None) -> str:
        """The start of the prompt."""
        given = [message.text for message in messages if message.role == "system"]
        if given:
            system_message = "\n".join(given)
        else:
            has_images = any(message.images for message in messages)
            own = (has_images and self.system_message_vision) or self.system_message
            system_message = fill_dates(own, now) if now else own
        return (self.system if system_message else self.system_empty).replace(
            "{system}", system_message
        )

    def _turn(
        self, turn: Message, *, is_first: bool, is_last: bool, n_rounds: int
    ) -> Iterator[Segment]:
        """The segments of one message."""
        text = self.image * len(turn.images) + _apply(self.text, turn.text)
        is_closed = not (is_last and self.layout == "joined")
        match turn.role:
            case "user":
                first = self.first_user if is_first else None
                before, after = first or self.user
                before = before.replace("{round}", str(n_rounds))
                yield Segment(before + text + after * is_closed, "user", False)
            case "assistant" if is_last and _is_open(turn):
                yield Segment(self.open, "assistant", False)
            case "assistant":
                before, after, *gap = self.assistant
                head = "" if self.layout == "joined" else self.open
                yield Segment(head, "assistant", False)
                yield Segment(before[len(head) :] + text + after * is_closed, "assistant", True)
                yield Segment("".join(gap) * is_closed, "assistant", False)
            case role:
                raise UsageError(
                    f"template {self.name!r} has no place for a message of role {role!r}; "
                    "use a model whose tokenizer brings its own chat template"
                )


def fill_dates(text: str, now: datetime) -> str:
    """`text` with its date holes filled."""
    for hole, form in DATE_HOLES.items():
        text = text.replace(hole, now.strftime(form))
    return text


def _is_open(message: Message) -> bool:
    return message.role == "assistant" and not message.text


def _apply(rule: TextRule, text: str) -> str:
    match rule:
        case "as_is":
            return text
        case "strip":
            return text.strip()
        case "fold_newlines":
            return text.replace("\r\n", "\n").replace("\n\n", "\n")
