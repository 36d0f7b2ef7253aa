"""Which pairs would tell most, from the votes of a store as they come.

Votes are read on one thread in the background, so that nobody who asks for a battle waits for the
database; what is asked between two reads is answered from the last one.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fastchat.arena.active import pair_chances
from fastchat.arena.counts import Counts, counts_of, fold
from fastchat.arena.live import VoteSource
from fastchat.arena.pairing import Pairs
from fastchat.arena.votes import Votes
from fastchat.errors import FastChatError
from fastchat.store.arena_records import VoteColumns

REFRESH_S = 5.0
"""How old the votes may be that pairs are drawn by."""
AT_ONCE = 100_000
"""Votes read at once, so that a large store does not fill the memory."""

log = logging.getLogger(__name__)


class LivePairs:
    """Chances of pairs by what they would tell; safe to ask from several threads."""

    def __init__(self, source: VoteSource, *, now: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._now = now
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pairs")
        self._ends = threading.Event()
        self._lock = threading.Lock()  # guards everything below
        self._reading: Future[None] | None = None
        self._read_at: float | None = None
        self._last_id = 0
        self._counts = {vision: _nothing() for vision in (False, True)}
        self._known: dict[bool, tuple[tuple[str, ...], int, Pairs]] = {}
        """By whether of pictures: models, last vote, and what was computed of them."""

    def chances(self, models: Sequence[str], *, vision: bool) -> Pairs:
        """How likely each pair of `models` should be drawn; none for fewer than two.

        vision: by the votes on pictures, or by those on text.
        """
        self._refresh()
        with self._lock:
            key = tuple(models)
            found = self._known.get(vision)
            if found is None or found[:2] != (key, self._last_id):
                found = key, self._last_id, _chances_of(_among(self._counts[vision], key))
                self._known[vision] = found
            return found[2]

    def wait(self) -> None:
        """Returns once the votes being read are counted."""
        with self._lock:
            reading = self._reading
        if reading is not None:
            reading.result()

    def close(self) -> None:
        """Ends the thread, after the piece that it reads."""
        self._ends.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _refresh(self) -> None:
        """Has the new votes read, when the last read is old and none is on its way."""
        with self._lock:
            if self._reading is not None and not self._reading.done():
                return
            if self._read_at is not None and self._now() - self._read_at < REFRESH_S:
                return
            self._read_at = self._now()
            self._reading = self._thread.submit(self._read)

    def _read(self) -> None:
        """Counts the new votes, piece by piece."""
        try:
            while not self._ends.is_set():
                fresh = self._source.votes(since=self._last_id, limit=AT_ONCE)
                if not len(fresh):
                    return
                self._count(fresh)
        except FastChatError as error:
            log.warning("votes not read, pairs are drawn by older ones error=%s", error.message)

    def _count(self, fresh: VoteColumns) -> None:
        counts = fresh.human & fresh.anonymous & (fresh.model_a != fresh.model_b)
        with self._lock:
            for vision, before in self._counts.items():
                rows = np.flatnonzero(counts & (fresh.vision == vision))
                self._counts[vision] = _with(before, fresh, rows)
            self._last_id = int(fresh.ids[-1])


def _nothing() -> Counts:
    return counts_of((), np.zeros((0, 0)), np.zeros((0, 0)))


def _with(before: Counts, fresh: VoteColumns, rows: NDArray[np.intp]) -> Counts:
    """The counts with those rows of the votes, whose codes go on from theirs."""
    votes = Votes(
        models=fresh.models,
        a=fresh.model_a[rows],
        b=fresh.model_b[rows],
        outcome=fresh.outcome[rows].astype(np.int8),
    )
    added = fold(votes)
    more = len(fresh.models) - len(before.models)
    wins, ties = (np.pad(matrix, (0, more)) for matrix in (before.wins, before.ties))
    return counts_of(fresh.models, wins + added.wins, ties + added.ties)


def _among(counts: Counts, models: tuple[str, ...]) -> Counts:
    """The counts of these models, nothing for those without a vote."""
    place = {name: i for i, name in enumerate(counts.models)}
    at = [i for i, name in enumerate(models) if name in place]
    of = [place[models[i]] for i in at]
    wins, ties = np.zeros((len(models),) * 2), np.zeros((len(models),) * 2)
    wins[np.ix_(at, at)] = counts.wins[np.ix_(of, of)]
    ties[np.ix_(at, at)] = counts.ties[np.ix_(of, of)]
    return counts_of(models, wins, ties)


def _chances_of(counts: Counts) -> Pairs:
    chances = pair_chances(counts).tolist()
    names = counts.models
    return {
        (a, b): chance
        for i, a in enumerate(names)
        for b, chance in zip(names[i + 1 :], chances[i][i + 1 :], strict=True)
        if chance > 0
    }
