"""How long people take from the slower answer to their vote."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from fastchat.arena.events import VOTES, Event, LoggedState, Unread

LONGEST_S = 200.0
BINS = 20


@dataclass(slots=True, kw_only=True)
class VoteTimes:
    """Durations in seconds, in the order of the votes."""

    seconds: list[float] = field(default_factory=list[float])
    n_votes: int = 0
    n_unmatched: int = 0
    """Votes of which not both chats are in the log."""
    n_negative: int = 0
    """Votes before the end of an answer; they tell nothing and are left out."""

    def histogram(self) -> tuple[list[float], list[int]]:
        """(BINS + 1) edges in seconds and BINS + 1 counts, the last one of all that is longer."""
        counts, edges = np.histogram(self.seconds, bins=BINS, range=(0.0, LONGEST_S))
        beyond = sum(s > LONGEST_S for s in self.seconds)
        return [float(e) for e in edges], [*map(int, counts), beyond]


def vote_times(events: Iterable[Event | Unread]) -> VoteTimes:
    """Joins each vote to the two chats that ended in the same states."""
    times = VoteTimes()
    finished: dict[int, float] = {}
    for event in events:
        if isinstance(event, Unread):
            continue
        if event.type == "chat":
            if event.finish is not None:
                finished[_identity(event.states[0])] = event.finish
        elif event.type in VOTES and not event.is_of_judge:
            times.n_votes += 1
            ends = [finished.get(_identity(state)) for state in event.states]
            known = [end for end in ends if end is not None]
            if len(known) < len(ends):
                times.n_unmatched += 1
            elif (waited := event.tstamp - max(known)) < 0:
                times.n_negative += 1
            else:
                times.seconds.append(waited)
    return times


def stored_vote_times(url: str) -> VoteTimes:
    """What the store at `url` knows of its people's votes: each tells how long it took.

    Raises:
        UsageError: the URL is of no known kind, or its file is not there.
        StoreError: the database cannot be used now.
    """
    import sqlalchemy as sa

    from fastchat.arena.store_battles import opened_store
    from fastchat.store.arena_tables import ORIGINS, votes

    query = sa.select(votes.c.waited_s).where(votes.c.origin == ORIGINS[0]).order_by(votes.c.id)
    with opened_store(url) as database:
        waited = database.read(lambda c: c.execute(query).scalars().all())
    times = VoteTimes(n_votes=len(waited))
    known = [seconds for seconds in waited if seconds is not None]
    times.seconds = [seconds for seconds in known if seconds >= 0]
    times.n_unmatched = len(waited) - len(known)
    times.n_negative = len(known) - len(times.seconds)
    return times


def _identity(state: LoggedState) -> int:
    """A number that two equal states have in common."""
    return hash((state.conv_id, repr(state.messages), state.offset))
