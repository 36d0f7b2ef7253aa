"""What conversations are made of, and how people type.

A conversation is made of episodes: one or a few exchanges that belong together, such as a sum
and "and plus 5?". The wordings stand in topics.toml.
"""

import random
import tomllib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOPICS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("topics.toml").read_text("utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A question with its answer."""

    ask: str
    answer: str
    topic: str
    key: str = ""
    """What is asked, whatever the words; empty where it is always taught."""

    @property
    def is_held_out(self) -> bool:
        """Whether it is kept for the examination."""
        return bool(self.key) and zlib.crc32(f"{self.topic}|{self.key}".encode()) % 10 == 0


@dataclass(slots=True)
class Talk:
    """What a conversation has established so far."""

    facts: dict[str, str] = field(default_factory=dict)
    """What the user told, by kind."""


Episode = Callable[[random.Random, Talk], list[Exchange]]


def typed(r: random.Random, text: str, *, keep_case: bool = False) -> str:
    """The text as people type it: with or without capitals, marks at the end, and manners."""
    x = r.random()
    if x < 0.08:
        text = r.choice(TOPICS["manners"]["before"]) + text
    elif x < 0.12 and text[-1] not in "?.!=":
        text += r.choice(TOPICS["manners"]["after"])
    if text[-1] in "?!" and r.random() < 0.4:
        text = text[:-1].rstrip()
    elif text[-1].isalpha() and r.random() < 0.15:
        text += r.choice(".!?")
    x = r.random()
    if x < 0.45:
        text = text[0].upper() + text[1:]
    elif x < 0.7 and not keep_case:
        text = text.lower()
    return text
