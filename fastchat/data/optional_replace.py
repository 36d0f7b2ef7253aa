"""Spells special tokens within texts with bars, so that no tokenizer takes them for marks."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastchat.data.naming import only_input
from fastchat.data.pipeline import PipelineSettings, announce, run
from fastchat.data.records import Record
from fastchat.data.steps import Outcome
from fastchat.model.tokenizer_file import TokenizerFile, read_tokenizer
from fastchat.settings import alias, run_command


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionalReplaceSettings(PipelineSettings):
    """Changes special tokens within texts: </s> becomes <|/s|>."""

    model_name_or_path: Annotated[str | None, alias("--model-name")] = None
    """Model whose tokenizer names the tokens; without one, the data are copied."""


@dataclass(slots=True, kw_only=True)
class OptionalReplace:
    """The step."""

    tokens: tuple[str, ...]
    name: str = "optional_replace"
    _pattern: re.Pattern[str] | None = field(default=None, init=False, compare=False)

    def prepare(self) -> None:
        """Makes one search of all tokens, the longest first: some hold others."""
        longest_first = sorted(self.tokens, key=lambda token: (-len(token), token))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def apply(self, record: Record) -> Sequence[Record] | Outcome:
        """The record with its tokens spelled out."""
        assert self._pattern is not None
        pattern = self._pattern
        changed: dict[str, int] = {}

        def spelled(found: re.Match[str]) -> str:
            name = f"token {found[0]}"
            changed[name] = changed.get(name, 0) + 1
            return with_bars(found[0])

        turns = tuple(
            dataclasses.replace(turn, text=pattern.sub(spelled, turn.text))
            if pattern.search(turn.text)
            else turn
            for turn in record.turns
        )
        if not changed:
            return (record,)
        return Outcome(records=(dataclasses.replace(record, turns=turns),), changed=changed)


def with_bars(token: str) -> str:
    """The token with bars within; `ab` becomes `a|b`, a single letter a blank."""
    if len(token) > 2:
        return f"{token[0]}|{token[1:-1]}|{token[-1]}"
    return f"{token[0]}|{token[1]}" if len(token) == 2 else " "


def tokens_to_spell(tokenizer: TokenizerFile) -> tuple[str, ...]:
    """Every special token, and added tokens that are marks rather than pieces of plain text.

    Tokenizers also add single letters and runs of blanks, which texts are full of.
    """
    marks = [
        mark.text
        for mark in tokenizer.added
        if mark.special or (len(mark.text) > 2 and not mark.text.isspace())
    ]
    return tuple(dict.fromkeys(text for text in (*tokenizer.named, *marks) if text))


def optional_replace(settings: OptionalReplaceSettings) -> None:
    """Runs the step over the files and prints the counts."""
    out_file = settings.out_file or only_input(settings, "--out-file") + "_replace.json"
    steps: list[OptionalReplace] = []
    if settings.model_name_or_path is not None:
        tokens = tokens_to_spell(read_tokenizer(settings.model_name_or_path))
        steps.append(OptionalReplace(tokens=tokens))
    report = run(settings, steps, out_file=out_file)
    n_replaced = sum(report.changed[f"token {token}"] for step in steps for token in step.tokens)
    text = f"#in: {report.read}, #out: {report.kept}, #replaced: {n_replaced}"
    announce(settings, text, out_file=out_file)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        OptionalReplaceSettings,
        optional_replace,
        argv,
        prog="python3 -m fastchat.data.optional_replace",
    )


if __name__ == "__main__":
    raise SystemExit(main())
