"""Writes what a model is taught about itself: its name, its makers, and who it is not.

The texts are data, in `hardcoded_questions.toml`; every question of a group meets every answer.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastchat.data.files import open_writer
from fastchat.data.output import FileFormat
from fastchat.data.records import GPT, HUMAN, Record, Turn
from fastchat.errors import UsageError
from fastchat.settings import CommaList, alias, run_command

TEXTS = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class HardcodedQuestionsSettings:
    """Writes conversations in which a model says who it is, who made it and who it is not."""

    name: str = "Vicuna"
    """What the model is called."""
    org: str = "Large Model Systems Organization (LMSYS)"
    """Who trained it."""
    out_file: Annotated[str, alias("--out")] = "hardcoded.json"
    """Where to write; the name says the format, - is standard output."""
    languages: CommaList = ("en",)
    """Languages of the conversations, separated by commas: en, de, zh."""
    multi_turn: bool = False
    """Also write conversations of three rounds, one from each group."""
    max_per_group: int | None = None
    """At most so many conversations of each group and language, spread evenly over it."""
    format: FileFormat | None = None
    """Format of the output, where its name does not say it."""
    debug: bool = False
    """Show tracebacks of errors."""


class Exchange(NamedTuple):
    """A question with its answer."""

    question: str
    answer: str


def exchanges(language: str, *, name: str, org: str) -> list[list[Exchange]]:
    """The three groups: who the model is, who made it, whether it is some other one.

    Questions after a model or a maker of the same name are left out.

    Raises:
        UsageError: there are no texts in the language.
    """
    texts = tomllib.loads(TEXTS.read_text("utf-8"))
    others = texts.pop("others")
    if language not in texts:
        raise UsageError(f"--languages {language!r}: there are texts in {', '.join(texts)} only.")
    groups: dict[str, Any] = texts[language]
    other_models = [other for other in others["models"] if not _is_same(other, name)]
    other_makers = [other for other in others["makers"] if not _is_same(other, org)]
    questions = [
        groups["who"]["questions"],
        groups["maker"]["questions"],
        [
            question.replace("{other}", other)
            for forms, known in (("questions", other_models), ("maker_questions", other_makers))
            for other, question in product(known, groups["other"][forms])
        ],
    ]
    return [
        [
            Exchange(question, answer.replace("{name}", name).replace("{org}", org))
            for question, answer in product(asked, groups[group]["answers"])
        ]
        for asked, group in zip(questions, ("who", "maker", "other"), strict=True)
    ]


def hardcoded_records(settings: HardcodedQuestionsSettings) -> Iterator[Record]:
    """The conversations, numbered from 0.

    Raises:
        UsageError: a setting cannot be.
    """
    if not settings.name.strip() or not settings.org.strip():
        raise UsageError("--name and --org cannot be empty: they are what the model says.")
    if settings.max_per_group is not None and settings.max_per_group < 1:
        raise UsageError(f"--max-per-group {settings.max_per_group} is too small; give 1 or more.")
    talks: list[list[Exchange]] = []
    for language in settings.languages:
        groups = exchanges(language, name=settings.name, org=settings.org)
        groups = [_spread(group, settings.max_per_group) for group in groups]
        talks += [[exchange] for group in groups for exchange in group]
        if settings.multi_turn:
            longest = max(map(len, groups))
            talks += [[group[i % len(group)] for group in groups] for i in range(longest)]
    for number, talk in enumerate(talks):
        yield Record(
            id=f"identity_{number}",
            turns=tuple(
                turn
                for exchange in talk
                for turn in (
                    Turn(speaker=HUMAN, text=exchange.question),
                    Turn(speaker=GPT, text=exchange.answer),
                )
            ),
        )


def hardcoded_questions(settings: HardcodedQuestionsSettings) -> None:
    """Writes the conversations."""
    with open_writer(settings.out_file, settings.format) as writer:
        for record in hardcoded_records(settings):
            writer.write(record.to_json())


def _is_same(other: str, own: str) -> bool:
    """Whether the other's name is the model's own, or a part of it."""
    return bool(re.search(rf"(?<!\w){re.escape(other)}(?!\w)", own, re.IGNORECASE))


def _spread(group: list[Exchange], limit: int | None) -> list[Exchange]:
    """At most `limit` of the group, from its beginning to its end at even distances."""
    if limit is None or limit >= len(group):
        return group
    return [group[i * len(group) // limit] for i in range(limit)]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        HardcodedQuestionsSettings,
        hardcoded_questions,
        argv,
        prog="python3 -m fastchat.data.hardcoded_questions",
    )


if __name__ == "__main__":
    raise SystemExit(main())
