"""The words of the page: `texts.toml` as records, read and checked once."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fastchat.errors import DataError

TEXTS_PATH = Path(__file__).with_name("texts.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTexts:
    """What stands around the panes."""

    title: str
    theme_label: str
    parameters: str
    terms_title: str
    terms: str
    terms_agree: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTexts:
    """Labels and hints of a pane."""

    conversation: str
    model: str
    message: str
    ask: str
    wait: str
    regenerate: str
    clear: str
    thinking: str
    temperature: str
    temperature_info: str
    top_p: str
    top_p_info: str
    max_tokens: str
    max_tokens_info: str
    greeting: str
    small_print: str
    suggestions: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyTexts:
    """What the page says while no model is up."""

    title: str
    hint: str
    command: str
    unreachable: str
    refused: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeTexts:
    """What a pane says when a turn did not go as asked."""

    unreachable: str
    timeout: str
    busy: str
    refused: str
    gone: str
    failed: str
    rejected: str
    silent: str
    cut_off: str
    length: str
    stopped: str
    cut: str
    full: str
    no_model: str
    running: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """All of it."""

    page: PageTexts
    chat: ChatTexts
    empty: EmptyTexts
    notice: NoticeTexts


@cache
def load_texts(path: Path = TEXTS_PATH) -> Texts:
    """The texts in the file at `path`.

    Raises:
        DataError: a table or an entry is missing, or one is there that nobody reads.
    """
    tables: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    kinds = {"page": PageTexts, "chat": ChatTexts, "empty": EmptyTexts, "notice": NoticeTexts}
    if wrong := kinds.keys() ^ tables.keys():
        raise DataError(f"{path.name}: missing or unknown tables: {', '.join(sorted(wrong))}.")
    for name, kind in kinds.items():
        if wrong := set(kind.__dataclass_fields__) ^ tables[name].keys():
            entries = ", ".join(sorted(wrong))
            raise DataError(f"{path.name}: missing or unknown entries in [{name}]: {entries}.")
    return Texts(**{name: kind(**tables[name]) for name, kind in kinds.items()})
