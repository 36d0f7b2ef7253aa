"""The table of live endpoints by model name, and the choice among them. Pure: time comes in.

Load is what is known to wait at an endpoint: our own requests in flight, addresses handed
out since its last report, and the part of that report which was not ours.
"""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from fastchat.serve.endpoints import Endpoint

DispatchMethod = Literal["shortest_queue", "lottery"]

MAX_KNOWN_MODELS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One endpoint as others should see it."""

    endpoint: Endpoint
    queue_length: int = 0
    """As last reported."""


Snapshot = Mapping[str, Listing]
"""Listings by endpoint name, in order of registration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of one endpoint between two snapshots; without a listing it is gone."""

    name: str
    listing: Listing | None


def diff(before: Snapshot, after: Snapshot) -> list[Change]:
    """The changes that lead from `before` to `after`."""
    gone = [Change(name=name, listing=None) for name in before if name not in after]
    new = [
        Change(name=name, listing=listing)
        for name, listing in after.items()
        if before.get(name) != listing
    ]
    return gone + new


class _Entry:
    """An endpoint with what has been heard of it."""

    __slots__ = (
        "down",
        "endpoint",
        "failed_at",
        "handed_out",
        "heard_at",
        "in_flight",
        "others",
        "queue_length",
    )

    def __init__(self, endpoint: Endpoint, now: float) -> None:
        self.endpoint = endpoint
        self.heard_at = now
        self.queue_length = 0  # as last reported
        self.others = 0  # the part of that report that was not ours
        self.in_flight = 0
        self.handed_out = 0
        self.failed_at: float | None = None  # last contact failed: ranks last
        self.down = False  # probes say it is gone: not offered at all

    @property
    def load(self) -> float:
        """Waiting requests over speed."""
        return (self.in_flight + self.handed_out + self.others) / self.endpoint.speed

    def report(self, queue_length: int) -> None:
        self.queue_length = queue_length
        self.others = max(0, queue_length - self.in_flight)
        self.handed_out = 0


class Router:
    """Endpoints by name and by model.

    An endpoint whose last contact failed ranks behind all others until it is heard of again;
    one that is silent for longer than the expiry, or down, is never picked.
    """

    def __init__(
        self,
        *,
        method: DispatchMethod = "shortest_queue",
        expiry_s: float = 90.0,
        rng: random.Random | None = None,
    ) -> None:
        self.method: DispatchMethod = method
        self.expiry_s = expiry_s
        self._rng = rng or random.Random()
        self._entries: dict[str, _Entry] = {}
        self._by_model: dict[str, list[_Entry]] = {}
        self._known: dict[str, None] = {}  # models ever served, oldest first

    # ---- who is there

    def register(self, endpoint: Endpoint, *, now: float, queue_length: int = 0) -> None:
        """Adds `endpoint`, or replaces the one of its name and keeps its counts."""
        entry = self._entries.get(endpoint.name)
        if entry is None:
            entry = self._entries[endpoint.name] = _Entry(endpoint, now)
            self._index(entry)
        elif entry.endpoint != endpoint:
            self._unindex(entry)
            entry.endpoint = endpoint
            self._index(entry)
        entry.heard_at = now
        entry.failed_at = None
        entry.down = False
        entry.report(queue_length)

    def unregister(self, name: str) -> bool:
        """Removes the endpoint; False when there was none of this name."""
        entry = self._entries.pop(name, None)
        if entry is None:
            return False
        self._unindex(entry)
        return True

    def heartbeat(self, name: str, queue_length: int, *, now: float) -> bool:
        """Notes that the endpoint lives; False asks it to register again."""
        entry = self._entries.get(name)
        if entry is None:
            return False
        entry.heard_at = now
        entry.failed_at = None
        entry.down = False
        entry.report(queue_length)
        return True

    def expire(self, now: float) -> list[str]:
        """Drops the endpoints that owe a heart-beat for too long; gives their names."""
        silent = [name for name, entry in self._entries.items() if self._is_silent(entry, now)]
        for name in silent:
            self.unregister(name)
        return silent

    # ---- what is known of one

    def report_load(self, name: str, queue_length: int) -> None:
        """Notes a queue length heard from others; says nothing about being reachable."""
        if (entry := self._entries.get(name)) is not None:
            entry.report(queue_length)

    def report_failure(self, name: str, *, now: float) -> None:
        """Ranks the endpoint last until it is heard of again."""
        if (entry := self._entries.get(name)) is not None and entry.failed_at is None:
            entry.failed_at = now

    def report_success(self, name: str, *, now: float) -> None:
        """Ranks the endpoint normally again, and offers it again if it was down.

        It is no heart-beat: one that owes those still has to send them.
        """
        if (entry := self._entries.get(name)) is not None:
            if entry.endpoint.check != "heartbeat":
                entry.heard_at = now
            entry.failed_at = None
            entry.down = False

    def set_down(self, name: str) -> None:
        """Stops offering the endpoint and its models until a report of success."""
        if (entry := self._entries.get(name)) is not None:
            entry.down = True

    def start(self, name: str) -> None:
        """Counts one of our requests as in flight there; `finish` takes it back."""
        if (entry := self._entries.get(name)) is not None:
            entry.in_flight += 1

    def finish(self, name: str) -> None:
        """Counts one of our requests as done."""
        entry = self._entries.get(name)
        if entry is not None and entry.in_flight > 0:
            entry.in_flight -= 1

    def hand_out(self, name: str) -> None:
        """Counts a request that others will send there, until the endpoint's next report."""
        if (entry := self._entries.get(name)) is not None:
            entry.handed_out += 1

    # ---- the choice

    def pick(self, model: str, *, now: float, avoid: Collection[str] = ()) -> Endpoint | None:
        """The endpoint for the next request to `model`; None when nobody is left.

        Shortest queue: the smallest load over speed, the first registered among equals.
        Lottery: drawn with a probability proportional to speed.
        """
        able = [
            entry
            for entry in self._by_model.get(model, ())
            if not entry.down
            and entry.endpoint.name not in avoid
            and not self._is_silent(entry, now)
        ]
        if not able:
            return None
        if len(able) == 1:
            return able[0].endpoint
        best = [entry for entry in able if entry.failed_at is None] or able
        if self.method == "lottery":
            weights = [entry.endpoint.speed for entry in best]
            return self._rng.choices(best, weights)[0].endpoint
        return min(best, key=lambda entry: entry.load).endpoint

    def is_better_elsewhere(self, model: str, name: str, *, now: float) -> bool:
        """Whether an endpoint other than `name` serves `model` and did not fail lately."""
        return any(
            entry.failed_at is None and not entry.down and not self._is_silent(entry, now)
            for entry in self._by_model.get(model, ())
            if entry.endpoint.name != name
        )

    def has_failed(self, name: str) -> bool:
        """Whether the last contact with the endpoint failed."""
        entry = self._entries.get(name)
        return entry is not None and (entry.down or entry.failed_at is not None)

    # ---- what can be seen

    def models(self, *, multimodal: bool | None = None) -> list[str]:
        """Names that are served now, sorted; of one kind when `multimodal` is given."""
        return sorted(
            model
            for model, entries in self._by_model.items()
            if any(
                not entry.down and multimodal in (None, entry.endpoint.multimodal)
                for entry in entries
            )
        )

    def knows(self, model: str) -> bool:
        """Whether `model` was ever served; one that was may come back."""
        return model in self._known

    def serving(self, model: str) -> list[Endpoint]:
        """The endpoints that offer `model` now."""
        return [entry.endpoint for entry in self._by_model.get(model, ()) if not entry.down]

    def get(self, name: str) -> Endpoint | None:
        """The endpoint of this name, offered or not."""
        entry = self._entries.get(name)
        return entry.endpoint if entry else None

    def endpoints(self) -> list[Endpoint]:
        """All endpoints, in order of registration, offered or not."""
        return [entry.endpoint for entry in self._entries.values()]

    def failing(self) -> list[Endpoint]:
        """The endpoints whose last contact failed, or that are down."""
        return [e.endpoint for e in self._entries.values() if e.down or e.failed_at is not None]

    def unheard(self, now: float, *, for_s: float) -> list[Endpoint]:
        """The endpoints that nobody has heard of for `for_s` seconds."""
        return [e.endpoint for e in self._entries.values() if now - e.heard_at >= for_s]

    def load(self, name: str) -> float:
        """Waiting requests over speed, as `pick` compares them."""
        return self._entries[name].load

    def queue_length(self, name: str) -> int:
        """The queue as last reported, and what was handed out since."""
        entry = self._entries[name]
        return entry.queue_length + entry.handed_out

    def snapshot(self) -> dict[str, Listing]:
        """All endpoints that are offered."""
        return {
            name: Listing(endpoint=entry.endpoint, queue_length=entry.queue_length)
            for name, entry in self._entries.items()
            if not entry.down
        }

    # ---- inside

    def _is_silent(self, entry: _Entry, now: float) -> bool:
        return entry.endpoint.check == "heartbeat" and now - entry.heard_at > self.expiry_s

    def _index(self, entry: _Entry) -> None:
        for model in entry.endpoint.model_names:
            self._by_model.setdefault(model, []).append(entry)
            self._known[model] = None
        while len(self._known) > MAX_KNOWN_MODELS:
            del self._known[next(iter(self._known))]

    def _unindex(self, entry: _Entry) -> None:
        for model in entry.endpoint.model_names:
            entries = self._by_model[model]
            entries.remove(entry)
            if not entries:
                del self._by_model[model]
