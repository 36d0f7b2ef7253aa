"""What people did, counted: chats and votes by day, by kind, by model and by hour."""

import datetime
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from fastchat.arena.events import VOTES, Event, Unread

DAY_S, HOUR_S = 86_400.0, 3_600.0
_HIDDEN = ("", "Model A", "Model B", "### Model A", "### Model B")


@dataclass(slots=True, kw_only=True)
class Activity:
    """Counts of events.

    Attributes:
        days: by day (UTC) and "chat" or "vote".
        kinds: by type of event; votes of judges stand apart and are counted nowhere else.
        blind_votes: by type, votes given before the names were shown.
        models: chats by model, in all.
        hours: chats by hour (counted since the epoch) and model.
        unread: lines that are no event, by reason.
        last: time of the last event.
    """

    days: Counter[tuple[datetime.date, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    blind_votes: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    hours: Counter[tuple[int, str]] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    last: float | None = None

    def add(self, events: Iterable[Event | Unread]) -> "Activity":
        """Counts the events too; gives itself."""
        for event in events:
            if isinstance(event, Unread):
                self.unread[event.reason] += 1
            else:
                self._add(event)
        return self

    def _add(self, event: Event) -> None:
        self.kinds[event.type + " of a judge" * event.is_of_judge] += 1
        if event.is_of_judge:
            return
        self.last = max(self.last or event.tstamp, event.tstamp)
        day = datetime.datetime.fromtimestamp(event.tstamp, datetime.UTC).date()
        if event.type in VOTES:
            self.days[day, "vote"] += 1
            self.blind_votes[event.type] += (event.models[0] or "").strip() in _HIDDEN
        elif event.type == "chat":
            model = event.models[0] or event.states[0].model_name or "unknown"
            self.days[day, "chat"] += 1
            self.models[model] += 1
            self.hours[int(event.tstamp // HOUR_S), model] += 1

    def models_since(self, seconds: float) -> Counter[str]:
        """Chats by model in the hours that lie within so many seconds of the last event."""
        if self.last is None:
            return Counter()
        first = int((self.last - seconds) // HOUR_S) + 1
        found: Counter[str] = Counter()
        for (hour, model), n in self.hours.items():
            if hour >= first:
                found[model] += n
        return found

    def last_hours(self, n: int = 24) -> list[tuple[datetime.datetime, int]]:
        """Chats in each of the last n hours, the oldest first."""
        if self.last is None:
            return []
        by_hour: Counter[int] = Counter()
        for (hour, _), count in self.hours.items():
            by_hour[hour] += count
        end = int(self.last // HOUR_S)
        return [
            (datetime.datetime.fromtimestamp(hour * HOUR_S, datetime.UTC), by_hour[hour])
            for hour in range(end - n + 1, end + 1)
        ]
