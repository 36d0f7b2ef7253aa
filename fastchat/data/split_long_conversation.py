"""Splits conversations that are longer than a model's window into parts that fit it.

A part is measured as training will see it: rendered by the template, with the system message,
then tokenized. Every round stands in exactly one part as its own, unless it is too long alone.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastchat.data.parts import Lengths, Part, plan_parts
from fastchat.data.pipeline import PipelineSettings, announce, run
from fastchat.data.records import GPT, HUMAN, Record, Turn
from fastchat.data.rendered_length import (
    RenderedLength,
    Round,
    pieces_of_chat_template,
    pieces_of_template,
    slack,
)
from fastchat.data.steps import Outcome
from fastchat.errors import UsageError
from fastchat.families.registry import registry
from fastchat.message import Message
from fastchat.model.tokenizer_file import TokenizerFile, read_tokenizer
from fastchat.settings import alias, run_command

DEFAULT_TEMPLATE = "vicuna_v1.1"

TOO_LONG = "round longer than the limit"
NOT_ALTERNATING = "human and gpt do not alternate"
TOO_FEW = "fewer than two messages"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitLongConversationSettings(PipelineSettings):
    """Splits long conversations into parts that fit a model's window."""

    model_name_or_path: Annotated[str, alias("--model-name")] = tyro.MISSING
    """Model whose tokenizer counts: a folder or a hub id."""
    max_length: int = 2048
    """Tokens that a part may have, rendered as for training."""
    conv_template: str | None = None
    """Template of the registry that training will use; vicuna_v1.1 unless given."""
    chat_template: str | None = None
    """Instead of it: auto for the tokenizer's own chat template, or a Jinja file."""
    overlong: Literal["drop", "truncate", "keep"] = "drop"
    """What to do with a round that is too long alone: drop it, cut the end of its answer, or
    keep it as it is."""
    overlap: int = 0
    """Earlier rounds that each part begins with as context, not to be learned again."""
    trust_remote_code: bool = False
    """Let the tokenizer run code of the model's makers."""


@dataclass(slots=True, kw_only=True)
class SplitLongConversation:
    """The step."""

    tokenizer: TokenizerFile = field(repr=False)
    max_length: int
    conv_template: str = DEFAULT_TEMPLATE
    chat_template: str | None = None
    """`auto`, or the text of a Jinja template; it wins over `conv_template`."""
    overlong: Literal["drop", "truncate", "keep"] = "drop"
    overlap: int = 0
    trust_remote_code: bool = False
    name: str = "split_long_conversation"
    _lengths: RenderedLength | None = field(default=None, init=False, compare=False, repr=False)

    def prepare(self) -> None:
        """Opens the tokenizer and the template."""
        if self.chat_template is not None:
            source = None if self.chat_template == "auto" else self.chat_template
            pieces = pieces_of_chat_template(
                self.tokenizer, source, trust_remote_code=self.trust_remote_code
            )
        else:
            pieces = pieces_of_template(registry().template(self.conv_template))
        self._lengths = RenderedLength(self.tokenizer, pieces)

    def apply(self, record: Record) -> Outcome:
        """The parts of a conversation that alternate between human and gpt."""
        rounds = list(zip(record.turns[::2], record.turns[1::2], strict=False))
        if not rounds:
            return Outcome(dropped=TOO_FEW)
        changed = {"rounds read": len(rounds)}
        lost: dict[str, int] = {}
        parts: list[Record] = []
        for part, turns in self._parts(record, rounds):
            reason = None
            if not turns:
                reason = TOO_LONG
            elif any(turn.speaker != (HUMAN, GPT)[i % 2] for i, turn in enumerate(turns)):
                reason = NOT_ALTERNATING
            if reason:
                lost[reason] = lost.get(reason, 0) + part.stop - part.start
                continue
            parts.append(
                dataclasses.replace(record, id=f"{record.id}_{2 * part.start}", turns=turns)
            )
            name = "rounds written"
            changed[name] = changed.get(name, 0) + part.stop - part.start
            if part.is_overlong:
                what = "cut" if self.overlong == "truncate" else "kept too long"
                changed[f"rounds {what}"] = changed.get(f"rounds {what}", 0) + 1
        changed |= {f"rounds dropped: {reason}": n for reason, n in lost.items()}
        return Outcome(
            records=parts,
            dropped=None if parts else max(lost, key=lost.__getitem__),
            changed=changed,
        )

    def _parts(
        self, record: Record, rounds: Sequence[tuple[Turn, Turn]]
    ) -> list[tuple[Part, tuple[Turn, ...]]]:
        """Each part with its messages; without any where its round is too long."""
        assert self._lengths is not None
        measure = self._lengths
        system = [] if record.system is None else [Message(role="system", text=record.system)]
        messages: list[Round] = [
            (Message(role="user", text=asked.text), Message(role="assistant", text=answer.text))
            for asked, answer in rounds
        ]
        head, *estimates = measure.estimates(system, messages)
        lengths = Lengths(
            head=head,
            rounds=estimates,
            slack=slack,
            true_length=lambda start, stop: measure.length(system, messages[start:stop]),
        )
        found: list[tuple[Part, tuple[Turn, ...]]] = []
        for part in plan_parts(lengths, limit=self.max_length, overlap=self.overlap):
            turns = _turns(part, rounds)
            if part.is_overlong and self.overlong == "drop":
                turns = ()
            elif part.is_overlong and self.overlong == "truncate":
                turns = self._truncated(turns, system)
            found.append((part, turns))
        return found

    def _truncated(self, turns: tuple[Turn, ...], system: Sequence[Message]) -> tuple[Turn, ...]:
        """The round with as much of its answer as fits; nothing where not even a word does."""
        assert self._lengths is not None
        asked, answer = turns
        question = Message(role="user", text=asked.text)
        low, high = 0, len(answer.text)
        # The longest beginning that fits: a longer text never has fewer tokens but for the odd
        # merge at its end, which the last look below settles.
        while low < high:
            middle = (low + high + 1) // 2
            cut = Message(role="assistant", text=answer.text[:middle])
            if self._lengths.length(system, [(question, cut)]) <= self.max_length:
                low = middle
            else:
                high = middle - 1
        text = answer.text[:low].rstrip()
        while text:
            cut = Message(role="assistant", text=text)
            if self._lengths.length(system, [(question, cut)]) <= self.max_length:
                return (asked, dataclasses.replace(answer, text=text))
            text = text[:-1].rstrip()
        return ()


def _turns(part: Part, rounds: Sequence[tuple[Turn, Turn]]) -> tuple[Turn, ...]:
    """The messages of a part; those of its context are marked as not learned."""
    context = [
        dataclasses.replace(turn, extra={**turn.extra, "train": False})
        for one in rounds[part.context : part.start]
        for turn in one
    ]
    return (*context, *(turn for one in rounds[part.start : part.stop] for turn in one))


def split_step(settings: SplitLongConversationSettings) -> SplitLongConversation:
    """The step that the settings ask for.

    Raises:
        UsageError: a setting cannot be.
    """
    if settings.conv_template and settings.chat_template:
        raise UsageError("--conv-template and --chat-template exclude each other; give one.")
    if settings.overlap < 0:
        raise UsageError(f"--overlap {settings.overlap} is no number of rounds; give 0 or more.")
    chat_template = settings.chat_template
    if chat_template not in (None, "auto"):
        try:
            chat_template = Path(chat_template).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"--chat-template {settings.chat_template!r} cannot be read: {error}; "
                "give a Jinja file, or auto."
            ) from None
    tokenizer = read_tokenizer(
        settings.model_name_or_path, trust_remote_code=settings.trust_remote_code
    )
    step = SplitLongConversation(
        tokenizer=tokenizer,
        max_length=settings.max_length,
        conv_template=settings.conv_template or DEFAULT_TEMPLATE,
        chat_template=chat_template,
        overlong=settings.overlong,
        overlap=settings.overlap,
        trust_remote_code=settings.trust_remote_code,
    )
    _check_room(dataclasses.replace(step))
    return step


def _check_room(step: SplitLongConversation) -> None:
    """Refuses a limit that not even the shortest conversation keeps."""
    step.prepare()
    assert step._lengths is not None
    shortest = (Message(role="user", text="a"), Message(role="assistant", text="b"))
    if (n_tokens := step._lengths.length([], [shortest])) > step.max_length:
        raise UsageError(
            f"--max-length {step.max_length} leaves no room: what the template itself writes "
            f"round one letter each has {n_tokens} tokens. Raise it."
        )


def split_long_conversation(settings: SplitLongConversationSettings) -> None:
    """Runs the step over the files and prints the counts."""
    out_file = "sharegpt_split.json"
    report = run(settings, [split_step(settings)], out_file=out_file)
    if settings.overlong == "drop" and (n_lost := report.changed[f"rounds dropped: {TOO_LONG}"]):
        announce(
            settings,
            f"{n_lost} of {report.changed['rounds read']} rounds are longer than "
            f"{settings.max_length} tokens alone and were dropped (--overlong)",
            out_file=out_file,
        )
    announce(settings, f"#in: {report.read}, #out: {report.kept}", out_file=out_file)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        SplitLongConversationSettings,
        split_long_conversation,
        argv,
        prog="python3 -m fastchat.data.split_long_conversation",
    )


if __name__ == "__main__":
    raise SystemExit(main())
