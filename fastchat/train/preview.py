"""Shows every record of a data file as training would see it: its text, its ids, what is learned.

    python3 -m fastchat.train.preview --data_path data.json --model_name_or_path TOKENIZER_FOLDER \\
        --model_max_length 2048 --json preview.jsonl
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from fastchat.errors import ModelError
from fastchat.settings import alias, run_command

PROG = "python3 -m fastchat.train.preview"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewSettings:
    """Shows the records of a data file as training would see them, what is learned in colour."""

    data_path: tuple[str, ...] = tyro.MISSING
    """Conversations: files, patterns, or - for standard input."""
    model_name_or_path: Annotated[str, alias("--model-name")] = tyro.MISSING
    """Folder or hub id of the tokenizer."""
    model_max_length: int = 512
    """Longest conversation in tokens; the rest is cut."""
    conv_template: str = "vicuna_v1.1"
    """Template that conversations are written in."""
    chat_template: str | None = None
    """Use the tokenizer's own chat template (auto) or one from a file instead."""
    loss_on: Literal["all_replies", "last_reply", "each_reply", "all_tokens"] = "all_replies"
    """What is learned of a conversation."""
    overlong: Literal["truncate", "drop", "split"] = "truncate"
    """What becomes of a conversation longer than the window."""
    json: str | None = None
    """File for id, text, input_ids and labels of every record, one JSON object a line."""
    limit: int | None = None
    """Records to look at; the default is all."""
    trust_remote_code: bool = False
    """Run Python code that comes with the tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A record as training sees it."""

    id: str
    text: str
    example: Any


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(PreviewSettings, preview, argv, prog=PROG)


def preview(settings: PreviewSettings) -> None:
    """Writes or prints the records, and says on standard error what was dropped."""
    from fastchat.train.account import Account
    from fastchat.train.preflight import coloured

    tokenizer = _tokenizer(settings)
    account = Account()
    records = seen_records(settings, tokenizer, account)
    if settings.json is not None:
        _write(settings.json, records)
    else:
        with_colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        for seen in records:
            example = seen.example
            print(f"{seen.id}: {len(example.input_ids)} tokens, {example.n_learned} learned")
            print(coloured(example, tokenizer, with_colour=with_colour) + "\n")
    for line in account.lines():
        print(line, file=sys.stderr)


def seen_records(settings: PreviewSettings, tokenizer: Any, account: Any) -> Iterator[Seen]:
    """The records that teach something, in the order of the files."""
    from itertools import chain, islice

    from fastchat.data.files import expand
    from fastchat.data.records import Rejected, read_records
    from fastchat.families.registry import registry
    from fastchat.train.account import Rules, teach
    from fastchat.train.examples import Labeller, messages_of
    from fastchat.train.tokenizer_template import TokenizerTemplate, read_chat_template

    if settings.chat_template is not None:
        render = TokenizerTemplate(
            tokenizer,
            read_chat_template(settings.chat_template, tokenizer),
            last_only=settings.loss_on in ("last_reply", "each_reply"),
        ).render
    elif settings.conv_template == "auto":
        family = registry().recognise(settings.model_name_or_path)
        render = registry().template(family.serving_template).render
    else:
        render = registry().template(settings.conv_template).render
    labeller = Labeller(tokenizer, render, max_length=settings.model_max_length)
    rules = Rules(loss_on=settings.loss_on, overlong=settings.overlong)
    paths = expand(settings.data_path)
    records = chain.from_iterable(read_records(path) for path in paths)
    for record in islice(records, settings.limit):
        for id, example in teach([record], labeller, rules=rules, account=account):
            assert not isinstance(record, Rejected)
            messages = messages_of(record)
            assert not isinstance(messages, str)
            yield Seen(id=id, text=labeller.text(messages), example=example)


def _write(path: str, records: Iterator[Seen]) -> None:
    """One JSON object a line; the file appears under its name when it is whole."""
    from fastchat.data.files import open_writer

    with open_writer(path, "jsonl") as writer:
        for seen in records:
            writer.write(
                {
                    "id": seen.id,
                    "text": seen.text,
                    "input_ids": seen.example.input_ids.tolist(),
                    "labels": seen.example.labels.tolist(),
                }
            )


def _tokenizer(settings: PreviewSettings) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            settings.model_name_or_path, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no tokenizer can be loaded from {settings.model_name_or_path}: {error}"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
