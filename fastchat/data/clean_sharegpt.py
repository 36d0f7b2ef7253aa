"""Turns raw ShareGPT conversations, whose messages are HTML, into clean ones in Markdown.

    python3 -m fastchat.data.clean_sharegpt --in sharegpt_html.json --out sharegpt_clean.json

Records that are too short, do not alternate, hold blocked words, cannot be parsed, used plugins
or stand there twice are dropped and counted.
"""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from fastchat.data.chat_page import is_page_markup, is_wrapped_by_page, without_buttons
from fastchat.data.digests import DigestSet
from fastchat.data.pipeline import (
    Dropped,
    Outcome,
    OutFile,
    PipelineSettings,
    RecordStep,
    Report,
    StreamStep,
    announce,
    run,
)
from fastchat.data.records import GPT, HUMAN, Record, Turn
from fastchat.errors import UsageError
from fastchat.settings import CommaList, NoSwitch, run_command

if TYPE_CHECKING:
    from fastchat.data.near_duplicates import NearDuplicates

BLOCKED_WORDS = ("openai", "chatgpt")
BLOCKED_ANSWERS = (
    "Too many requests in 1 hour. Try again later.",
    "!Too many requests in 1 hour. Try again later.",
)
KNOWN_ROLES = {"user": HUMAN, "assistant": GPT, "chatgpt": GPT, "bing": GPT, "bard": GPT}
"""What `--role-map known` stands for."""
MIN_LETTERS = 16

TOO_SHORT, WRONG_FORMAT, BLOCKED = "too short", "wrong format", "blocked words"
PARSER_ERROR, PLUGIN = "parser error", "plugin"
SAME_ID, SAME_VALUE, NEAR_VALUE = "id duplication", "value duplication", "near duplication"


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanSharegptSettings(PipelineSettings):
    """Turns raw ShareGPT conversations, whose messages are HTML, into clean ones in Markdown."""

    out_file: OutFile = "sharegpt_clean.json"
    blocked_word: tuple[str, ...] = ()
    """Also drop records that hold one of these words, in any case of letters."""
    no_default_blocked_words: NoSwitch = False
    """Do not drop records that hold `openai` or `chatgpt`."""
    role_map: CommaList = ()
    """Other names of roles, as bard=gpt,user=human; `known` stands for the usual ones."""
    keep_model: CommaList = ()
    """Keep only records of these models."""
    drop_model: CommaList = ()
    """Drop records of these models."""
    dedup: Literal["exact", "minhash", "none"] = "exact"
    """Which records count as duplicates: the same id or first exchange (exact), also much the
    same words (minhash), or none."""


def main(argv: Sequence[str] | None = None) -> int:
    """Cleans the input and prints the counts."""
    prog = "python3 -m fastchat.data.clean_sharegpt"
    return run_command(CleanSharegptSettings, clean_sharegpt, argv, prog=prog)


def clean_sharegpt(settings: CleanSharegptSettings) -> None:
    """Runs the command."""
    report = run(settings, clean_steps(settings))
    announce(settings, summary(report))


def clean_steps(settings: CleanSharegptSettings) -> list[RecordStep | StreamStep]:
    """The steps that the settings ask for."""
    words = () if settings.no_default_blocked_words else BLOCKED_WORDS
    messages = CleanMessages(
        blocked_words=(*words, *(word.lower() for word in settings.blocked_word)),
        roles=_roles(settings.role_map),
        keep_models=settings.keep_model,
        drop_models=settings.drop_model,
    )
    return [messages, DropDuplicates(settings.dedup)]


def summary(report: Report) -> str:
    """The line of counts that the command ends with."""
    dropped = report.dropped
    counts = {
        "total": report.read,
        "skip": report.read - report.kept,
        "new": report.kept,
        "cnt_blocked_words": dropped[BLOCKED],
        "cnt_parser_error": dropped[PARSER_ERROR],
        "cnt_wrong_format": dropped[WRONG_FORMAT],
        "cnt_too_short": dropped[TOO_SHORT],
        "cnt_id_duplication": dropped[SAME_ID],
        "cnt_value_duplication": dropped[SAME_VALUE] + dropped[NEAR_VALUE],
        "cnt_plugin": dropped[PLUGIN],
    }
    if n_malformed := report.malformed.total():
        counts["cnt_malformed"] = n_malformed
    return ", ".join(f"{name}: {n}" for name, n in counts.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanMessages:
    """Decides on one record and turns its messages into Markdown."""

    blocked_words: tuple[str, ...] = BLOCKED_WORDS
    roles: tuple[tuple[str, str], ...] = ()
    keep_models: tuple[str, ...] = ()
    drop_models: tuple[str, ...] = ()
    name: str = "clean_sharegpt"

    def prepare(self) -> None:
        """Loads the parser of HTML.

        Raises:
            UsageError: it is not installed.
        """
        try:
            import fastchat.data.html_markdown  # noqa: F401 - loaded once, before the records
        except ImportError:
            raise UsageError("HTML needs: pip install 'fschat[data]'.") from None

    def apply(self, record: Record) -> Sequence[Record] | Dropped | Outcome:
        """The cleaned record; the first test that fails decides why there is none."""
        model = record.extra.get("model")
        if self.keep_models and model not in self.keep_models:
            return Dropped(reason="another model", record=record)
        if self.drop_models and model in self.drop_models:
            return Dropped(reason="unwanted model", record=record)
        turns = self._trimmed(record.turns)
        if len(turns) <= 1:
            return Dropped(reason=TOO_SHORT, record=record)
        cleaned: list[Turn] = []
        n_letters = 0
        for i, turn in enumerate(turns):
            if turn.speaker != (GPT if i % 2 else HUMAN):
                return Dropped(reason=WRONG_FORMAT, record=record)
            lowered = turn.text.lower()
            if any(word in lowered for word in self.blocked_words):
                return Dropped(reason=BLOCKED, record=record)
            text = markdown_of(turn)
            if text is None:
                return Dropped(reason=PARSER_ERROR, record=record)
            if turn.speaker == GPT and text.startswith(BLOCKED_ANSWERS):
                return Dropped(reason=BLOCKED, record=record)
            stripped = text.strip()
            if not stripped or not stripped[0].isprintable():
                break
            n_letters += len(stripped)
            cleaned.append(Turn(speaker=turn.speaker, text=text, extra=turn.extra))
        if len(cleaned) % 2:
            n_letters -= len(cleaned.pop().text.strip())
        if n_letters < MIN_LETTERS:
            return Dropped(reason=TOO_SHORT, record=record)
        return (dataclasses.replace(record, turns=tuple(cleaned)),)

    def _trimmed(self, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
        """The turns from the first of the human to the last of the model."""
        if self.roles:
            roles = dict(self.roles)
            turns = tuple(
                dataclasses.replace(turn, speaker=roles.get(turn.speaker, turn.speaker))
                for turn in turns
            )
        if len(turns) > 1 and turns[0].speaker != HUMAN:
            turns = turns[1:]
        if len(turns) > 1 and turns[-1].speaker == HUMAN:
            turns = turns[:-1]
        return turns


def markdown_of(turn: Turn) -> str | None:
    """The message as Markdown; None when its HTML is broken.

    What a human typed is text, and stays as it is, unless the page's own element is round it.
    """
    from fastchat.data.html_markdown import RejectedMarkup, markdown_from_html

    text = turn.text
    if turn.speaker == HUMAN:
        if not is_wrapped_by_page(text):
            return text
    elif not is_page_markup(text):
        return without_buttons(text)
    try:
        return markdown_from_html(text)
    except RejectedMarkup:
        return None


class DropDuplicates:
    """Drops records that used plugins, and those that were there before."""

    name = "clean_sharegpt"

    def __init__(self, kind: Literal["exact", "minhash", "none"]) -> None:
        self.kind = kind
        self._ids = DigestSet()
        self._values = DigestSet()

    def apply_all(self, records: Iterable[Record]) -> Iterator[Record | Dropped]:
        """The records that are there for the first time."""
        near = self._near
        for record in records:
            reason = self._reason(record)
            if reason is None and near is not None:
                signature = near.signature([turn.text for turn in record.turns])
                if near.has(signature):
                    reason = NEAR_VALUE
                else:
                    near.add(signature)
            if reason is None:
                self._remember(record)
                yield record
            else:
                yield Dropped(reason=reason, record=record)

    def resume(self, kept: Iterable[Record]) -> None:
        """Knows the records kept so far."""
        for record in kept:
            self._remember(record)
            if self._near is not None:
                self._near.add(self._near.signature([turn.text for turn in record.turns]))

    @cached_property
    def _near(self) -> "NearDuplicates | None":
        if self.kind != "minhash":
            return None
        from fastchat.data.near_duplicates import NearDuplicates

        return NearDuplicates()

    def _reason(self, record: Record) -> str | None:
        if self.kind != "none" and (record.id,) in self._ids:
            return SAME_ID
        if record.extra.get("plugins") is not None:
            return PLUGIN
        if self.kind != "none" and _first_exchange(record) in self._values:
            return SAME_VALUE
        return None

    def _remember(self, record: Record) -> None:
        if self.kind != "none":
            self._ids.add((record.id,))
            self._values.add(_first_exchange(record))


def _first_exchange(record: Record) -> tuple[str, ...]:
    return tuple(turn.text.strip() for turn in record.turns[:2])


def _roles(pairs: Iterable[str]) -> tuple[tuple[str, str], ...]:
    roles: dict[str, str] = {}
    for pair in pairs:
        name, _, role = pair.partition("=")
        if pair == "known":
            roles |= KNOWN_ROLES
        elif name and role in (HUMAN, GPT):
            roles[name] = role
        else:
            raise UsageError(
                f"--role-map {pair!r} is neither NAME={HUMAN} nor NAME={GPT} nor `known`."
            )
    return tuple(roles.items())


if __name__ == "__main__":
    sys.exit(main())
