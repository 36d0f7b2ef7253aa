"""The words of the page: `texts.toml` as records, read and checked once."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fastchat.errors import DataError

TEXTS_PATH = Path(__file__).with_name("texts.toml")
LANGUAGES = {"en": TEXTS_PATH, "zh": TEXTS_PATH.with_suffix(".zh.toml")}
"""The files of texts by language; a translation is one more."""


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

    flagged: str
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
class ArenaTexts:
    """What the pages of the arena say."""

    tab_battle: str
    tab_named: str
    tab_direct: str
    tab_leaderboard: str
    tab_visualizer: str
    tab_about: str
    side_a: str
    side_b: str
    left: str
    right: str
    tie: str
    both_bad: str
    upvote: str
    downvote: str
    flag: str
    new_round: str
    share: str
    example: str
    ask: str
    ask_direct: str
    ask_with_picture: str
    round_over: str
    greeting_battle: str
    greeting_named: str
    greeting_direct: str
    hint_battle: str
    hint_named: str
    hint_direct: str
    thanks: str
    begin_new_round: str
    choose_models: str
    no_pair: str
    no_vision_model: str
    limit_reached: str
    pictures_ignored: str
    one_picture: str
    side_failed: str
    side_silent: str
    stopped: str
    vote_not_saved: str
    share_not_saved: str
    nothing_to_share: str
    shared: str
    shared_title: str
    shared_gone: str
    you: str
    descriptions: str
    about: str
    kept: str
    """What the page keeps, as `about` tells it."""
    kept_for: str
    kept_not: str
    kept_hash: str
    kept_address: str
    not_yours: str
    refused_votes: Mapping[str, str]
    """Notices by the reason for which a vote is not taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """All of it."""

    page: PageTexts
    chat: ChatTexts
    empty: EmptyTexts
    notice: NoticeTexts
    arena: ArenaTexts


@cache
def load_texts(path: Path = TEXTS_PATH) -> Texts:
    """The texts in the file at `path`.

    Raises:
        DataError: a table or an entry is missing, or one is there that nobody reads.
    """
    tables: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    kinds = {
        "page": PageTexts,
        "chat": ChatTexts,
        "empty": EmptyTexts,
        "notice": NoticeTexts,
        "arena": ArenaTexts,
    }
    if wrong := kinds.keys() ^ tables.keys():
        raise DataError(f"{path.name}: missing or unknown tables: {', '.join(sorted(wrong))}.")
    for name, kind in kinds.items():
        if wrong := set(kind.__dataclass_fields__) ^ tables[name].keys():
            entries = ", ".join(sorted(wrong))
            raise DataError(f"{path.name}: missing or unknown entries in [{name}]: {entries}.")
    return Texts(**{name: kind(**tables[name]) for name, kind in kinds.items()})
