"""The account of a run: what was read, kept, dropped and changed."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fastchat.data.records import Record

EXAMPLES = 3
"""Examples that the report shows of each reason."""
_SHOWN_LETTERS = 160


@dataclass(slots=True, kw_only=True)
class Report:
    """Counts of one run; `read + added = kept + all dropped`, always."""

    read: int = 0
    kept: int = 0
    added: int = 0
    """Records beyond the first that a step made of one."""
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    malformed: Counter[str] = field(default_factory=Counter)
    """The part of `dropped` that was no record at all."""
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def drop(self, reason: str, *, where: str, id: str | None, text: str) -> None:
        """Counts a dropped record."""
        self.dropped[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            example = {"where": where, "id": id or "", "text": text[:_SHOWN_LETTERS]}
            shown.append({name: x for name, x in example.items() if x})

    def to_json(self) -> dict[str, Any]:
        """The report as it stands in a file, under the published and the plain names."""
        seconds = time.perf_counter() - self.started
        counts: dict[str, Any] = {"in": self.read, "out": self.kept}
        counts |= {"read": self.read, "kept": self.kept}
        if self.added:
            counts["added"] = self.added
        return counts | {
            "dropped": dict(self.dropped),
            "changed": dict(self.changed),
            "seconds": round(seconds, 3),
            "records_per_second": round(self.read / seconds, 1) if seconds else 0.0,
            "examples": self.examples,
        }

    def state(self) -> dict[str, Any]:
        """What a later run needs in order to go on counting."""
        return {
            "read": self.read,
            "kept": self.kept,
            "added": self.added,
            "dropped": dict(self.dropped),
            "changed": dict(self.changed),
            "malformed": dict(self.malformed),
            "examples": self.examples,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up the counts that `state` gave."""
        self.read, self.kept, self.added = state["read"], state["kept"], state["added"]
        self.dropped = Counter(state["dropped"])
        self.changed = Counter(state["changed"])
        self.malformed = Counter(state["malformed"])
        self.examples = state["examples"]


def first_text(record: Record) -> str:
    """The beginning of a record, as an example shows it."""
    return record.turns[0].text[:_SHOWN_LETTERS] if record.turns else ""
