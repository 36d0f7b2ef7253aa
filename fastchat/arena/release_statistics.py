"""Counts that describe a data set: people, models, languages, turns, outcomes, lengths."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastchat.arena.release import MODELS, VOTERS, conversations
from fastchat.arena.scratch import Scratch, digest


@dataclass(slots=True, kw_only=True)
class Statistics:
    """What was counted so far; people are told apart on the disk."""

    people: Scratch
    rows: int = 0
    models: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    """By role: user or assistant."""
    characters: Counter[str] = field(default_factory=Counter)
    """The same."""

    def passing(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The rows, counted on their way."""
        for row in rows:
            self.add(row)
            yield row

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts a row."""
        self.rows += 1
        said = conversations(row)
        turn = row.get("turn")
        n_turns = turn if isinstance(turn, int) and turn else len(next(iter(said), [])) // 2
        self.turns[n_turns] += 1
        self.models.update(str(row[name]) for name in MODELS if row.get(name))
        self.languages[str(row.get("language", "unknown"))] += 1
        if winner := row.get("winner"):
            self.outcomes[str(winner)] += 1
        for voter in (row[name] for name in VOTERS if row.get(name)):
            self.people.add(digest(str(voter)))
        for message in (m for part in said for m in part if isinstance(m, dict)):
            role = "user" if message.get("role") == "user" else "assistant"
            content = message.get("content")
            self.messages[role] += 1
            self.characters[role] += len(content) if isinstance(content, str) else 0

    def to_json(self) -> dict[str, Any]:
        """As `statistics.json` has it; lengths are characters of a message on average."""
        return {
            "rows": self.rows,
            "users": len(self.people),
            "models": dict(self.models.most_common()),
            "languages": dict(self.languages.most_common()),
            "turns": {str(n): times for n, times in sorted(self.turns.items())},
            "outcomes": dict(self.outcomes),
            "mean_characters": {
                role: round(self.characters[role] / n, 1) if (n := self.messages[role]) else 0.0
                for role in ("user", "assistant")
            },
        }
