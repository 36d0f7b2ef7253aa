"""A leaderboard that follows votes as they come: counts are kept, a refresh is one short fit.

Votes come from the store as columns of whole numbers; what a vote adds to the counts is one
number, so that a refresh after it costs the same at a thousand votes and at a million.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastchat.arena.counts import counts_of
from fastchat.arena.leaderboard import Board, Leaderboard, board_of
from fastchat.arena.rating import Ratings, anchored, fit
from fastchat.arena.votes import BOTH_BAD, TIE, WIN_A, WIN_B, Floats
from fastchat.store.arena_records import VoteColumns

DAY_S = 86_400.0
MOST_A_DAY = 200
"""Votes of one voter that count on one day (UTC)."""
MOMENTS = 20
"""Moments at which the ratings of votes read together are remembered."""


class VoteSource(Protocol):
    """Where votes come from; the arena's store is one."""

    def votes(self, *, since: int = 0, limit: int | None = None) -> VoteColumns:
        """The votes with numbers above `since`, oldest first."""
        ...


class _Tally:
    """Counts of one board, which grow with votes and with models."""

    def __init__(self) -> None:
        self.wins = np.zeros((0, 0))
        self.ties = np.zeros((0, 0))

    def grow(self, m: int) -> None:
        """Room for m models."""
        if (more := m - len(self.wins)) > 0:
            self.wins = np.pad(self.wins, (0, more))
            self.ties = np.pad(self.ties, (0, more))

    def add(self, a: NDArray[np.int32], b: NDArray[np.int32], outcome: NDArray[np.int8]) -> None:
        """Counts votes."""
        first, second = outcome == WIN_A, outcome == WIN_B
        self._add(self.wins, a[first], b[first])
        self._add(self.wins, b[second], a[second])
        tied = (outcome == TIE) | (outcome == BOTH_BAD)
        self._add(self.ties, a[tied], b[tied])
        self._add(self.ties, b[tied], a[tied])

    @staticmethod
    def _add(matrix: Floats, row: NDArray[np.int32], column: NDArray[np.int32]) -> None:
        if len(row) < len(matrix):
            np.add.at(matrix, (row, column), 1.0)
        else:
            m = len(matrix)
            code = row.astype(np.intp) * m + column
            matrix += np.bincount(code, minlength=m * m).reshape(m, m)


_BOARDS = {
    "full": ("Overall", "All blind votes."),
    "multiturn": ("Several turns", "Conversations of two turns and more."),
    "no_tie": ("Without ties", "Decided battles only."),
    "vision": ("Pictures", "Battles that began with a picture."),
}
"""The boards that follow every vote: those of which a vote itself tells."""
_WHERE_VOTED = ("vision",)
"""Boards that are there from their first vote on."""


class LiveLeaderboard:
    """Boards of the votes so far; safe to ask from several threads."""

    def __init__(
        self,
        source: VoteSource,
        *,
        anchor: tuple[str, float] | None = None,
        most_a_day: int | None = MOST_A_DAY,
    ) -> None:
        """
        Args:
            anchor: a model and its rating; without one the mean is 1000.
            most_a_day: votes of one voter that count on one day; None counts all.
        """
        self._source = source
        self._anchor = anchor
        self._most_a_day = most_a_day
        self._lock = threading.Lock()  # guards everything below
        self._last_id = 0
        self._models: tuple[str, ...] = ()
        self._tallies = {key: _Tally() for key in _BOARDS}
        self._theta: dict[str, dict[str, float]] = {}
        self._of_day: tuple[int, Counter[str]] = (0, Counter())
        self._refused: Counter[str] = Counter()
        self._updated_at: float | None = None
        self._history: list[tuple[float, Mapping[str, float]]] = []
        self._shown: Leaderboard | None = None
        self._details: Mapping[str, Board] = {}

    def leaderboard(self) -> Leaderboard:
        """The boards of all votes that the source has now.

        Raises:
            StoreError: the source cannot be read now; the last boards stay.
        """
        with self._lock:
            fresh = self._source.votes(since=self._last_id)
            if len(fresh) or self._shown is None:
                self._take(fresh)
                self._shown = self._built()
            return self._shown

    def set_details(self, boards: Mapping[str, Board]) -> None:
        """Shows boards that were made elsewhere (by language, style, ...) beside the live ones."""
        with self._lock:
            self._details = {k: v for k, v in boards.items() if k not in _BOARDS}
            if self._shown is not None:
                live = {k: v for k, v in self._shown.boards.items() if k in _BOARDS}
                self._shown = replace(self._shown, boards={**live, **self._details})

    def _take(self, votes: VoteColumns) -> None:
        """Counts the votes, remembering the ratings on the way when they are many."""
        if not len(votes):
            return
        self._models = votes.models
        for tally in self._tallies.values():
            tally.grow(len(votes.models))
        counts = self._counting(votes)
        times = votes.voted_at
        ends = self._ends(times)
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            rows = np.arange(start, end)
            self._count(votes, rows[counts[start:end]])
            self._remember(float(times[end - 1]))
        self._last_id = int(votes.ids[-1])
        self._updated_at = max(self._updated_at or 0.0, float(times.max()))

    def _ends(self, times: Floats) -> list[int]:
        """Where the votes are cut: many are cut into moments, few are one piece."""
        n = len(times)
        if n < 100 * MOMENTS:
            return [n]
        return sorted({max(1, round(n * i / MOMENTS)) for i in range(1, MOMENTS + 1)})

    def _counting(self, votes: VoteColumns) -> NDArray[np.bool_]:
        """Which votes count; the others are counted by reason."""
        counts = votes.human.copy()
        self._refused["judge_vote"] += int(np.count_nonzero(~counts))
        self._refused["named"] += int(np.count_nonzero(counts & ~votes.anonymous))
        counts &= votes.anonymous
        same = votes.model_a == votes.model_b
        self._refused["same_model"] += int(np.count_nonzero(counts & same))
        counts &= ~same
        if self._most_a_day is not None:
            self._limit(votes, counts, self._most_a_day)
        return counts

    def _limit(self, votes: VoteColumns, counts: NDArray[np.bool_], most: int) -> None:
        """Takes a voter's votes past so many of a day out of `counts`."""
        today, seen = self._of_day
        days = (votes.voted_at // DAY_S).astype(np.int64).tolist()
        for i in np.flatnonzero(counts).tolist():
            if days[i] > today:
                today, seen = days[i], Counter()
            voter = votes.voter[i]
            if not voter or days[i] < today:
                continue
            seen[voter] += 1
            if seen[voter] > most:
                counts[i] = False
                self._refused["daily_limit"] += 1
        self._of_day = today, seen

    def _count(self, votes: VoteColumns, rows: NDArray[np.intp]) -> None:
        a, b, outcome = votes.model_a[rows], votes.model_b[rows], votes.outcome[rows]
        self._tallies["full"].add(a, b, outcome)
        several = votes.turn[rows] >= 2
        self._tallies["multiturn"].add(a[several], b[several], outcome[several])
        decided = outcome <= WIN_B
        self._tallies["no_tie"].add(a[decided], b[decided], outcome[decided])
        seen = votes.vision[rows]
        self._tallies["vision"].add(a[seen], b[seen], outcome[seen])

    def _remember(self, moment: float) -> None:
        """The ratings at a moment, for the plot over time: at most one a day, but for many."""
        last = self._history[-1][0] if self._history else None
        if last is not None and moment - last < DAY_S and len(self._history) >= MOMENTS:
            self._history.pop()
        ratings = self._rate("full")
        by_model = dict(zip(ratings.models, ratings.rating.tolist(), strict=True))
        self._history.append((moment, by_model))

    def _rate(self, key: str) -> Ratings:
        """The ratings of one board, from where they were before."""
        tally = self._tallies[key]
        counts = counts_of(self._models, tally.wins, tally.ties)
        ratings = fit(counts, start=self._theta.get(key))
        self._theta[key] = dict(zip(ratings.models, ratings.theta.tolist(), strict=True))
        if self._anchor and self._anchor[0] in ratings.models:
            return anchored(ratings, *self._anchor)
        return ratings

    def _built(self) -> Leaderboard:
        made = {key: self._board(key) for key in _BOARDS}
        boards = {k: b for k, b in made.items() if b.rows or k not in _WHERE_VOTED}
        first = boards["full"]
        rated = {row.model for row in first.rows}
        return Leaderboard(
            boards={**boards, **self._details},
            updated_at=self._updated_at,
            anchor=self._anchor[0] if self._anchor and self._anchor[0] in rated else None,
            history=tuple(self._history),
            refused={reason: n for reason, n in self._refused.items() if n},
        )

    def _board(self, key: str) -> Board:
        title, description = _BOARDS[key]
        tally = self._tallies[key]
        counts = counts_of(self._models, tally.wins, tally.ties)
        board = board_of(self._rate(key), counts, key=key, title=title)
        return replace(board, description=description)
