"""Boards of the categories that only texts tell, beside a leaderboard that follows every vote.

Languages, length, code, style: all of them ask for the texts of a battle, which cost a thousand
times what a vote's number costs. So a thread of its own reads the texts of new battles while
somebody looks at the board, keeps what was measured of them, and makes the boards anew when the
last ones have served long enough.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastchat.arena.battle_files import battle_table, frame_of_rows
from fastchat.arena.battles import Cleaner
from fastchat.arena.categories import Category
from fastchat.arena.leaderboard import STYLE_SUFFIX, Board, Leaderboard, Method, build
from fastchat.arena.live import MOST_A_DAY, LiveLeaderboard
from fastchat.arena.outliers import first_votes_a_day
from fastchat.arena.store_battles import stored_votes
from fastchat.errors import StoreError
from fastchat.store.arena import ArenaStore

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)

SLICE = 200
"""Votes whose texts are measured in one go; the thread then rests as long, so that it takes at
most half of a processor from those who vote meanwhile."""
NOBODY = "arena_user_"
SHORTEST_S = 20.0
"""How long boards are shown at least before they are made anew."""
SHARE = 10.0
"""Boards that took a while are shown so many times as long."""


class Measured:
    """The battles of a store, with what its texts tell and without the texts; grows."""

    def __init__(self, store: ArenaStore, *, most_a_day: int | None = MOST_A_DAY) -> None:
        """
        Args:
            most_a_day: votes of one voter that count on one day; None counts all.
        """
        self._store = store
        self._most_a_day = most_a_day
        self._cleaner = Cleaner(keep_addresses=True)  # knows which battles it has had
        self._frame: pl.DataFrame | None = None
        self._read_upto = 0

    def read(self, rest: Callable[[float], object]) -> None:
        """Measures the battles of the votes that came since the last time.

        rest: called between slices with the seconds that the last one took.

        Raises:
            StoreError: the store cannot be read now; what was measured stays.
        """
        import polars as pl

        upto = self._store.last_vote()
        events = stored_votes(self._store.database, since=self._read_upto)
        parts = [] if self._frame is None else [self._frame]
        try:
            while (part := self._slice(events, rest)) is not None:
                parts.append(part)
        finally:  # the cleaner has had them, and would not give them again
            if parts:
                self._frame = pl.concat(parts, how="diagonal_relaxed", rechunk=True)
        self._read_upto = upto

    def blind(self) -> "pl.DataFrame":
        """The blind battles that count, in the order of time."""
        import polars as pl

        if self._frame is None:
            return battle_table(pl.DataFrame()).frame
        blind = self._frame.filter(pl.col("anony")).sort("tstamp", maintain_order=True)
        judge = pl.col("judge")  # votes of nobody known are no one person's
        blind = blind.with_columns(pl.when(judge != NOBODY).then(judge).alias("judge"))
        return first_votes_a_day(blind, self._most_a_day) if self._most_a_day else blind

    def _slice(
        self, events: Iterable[Any], rest: Callable[[float], object]
    ) -> "pl.DataFrame | None":
        """The battles of the next votes; None when there are no more."""
        began = time.perf_counter()
        votes = list(itertools.islice(events, SLICE))
        if not votes:
            return None
        dropped = self._cleaner.report.dropped
        rows = frame_of_rows(self._cleaner.rows(votes), dropped)
        found = battle_table(rows, dropped).frame
        rest(time.perf_counter() - began)
        return found


def category_boards(battles: "pl.DataFrame", categories: Sequence[Category]) -> dict[str, Board]:
    """A board with and one without style control of each category that has battles."""
    told = [c for c in categories if not c.missing(battles)]
    boards = build(battles, told, method=Method(style=True)).boards
    voted = {key for key, board in boards.items() if board.rows}
    return {k: b for k, b in boards.items() if k.removesuffix(STYLE_SUFFIX) in voted}


class _Ended(Exception):
    """The thread is to end."""


class LiveCategories:
    """A live leaderboard whose categories follow a little later; safe to ask from threads."""

    def __init__(
        self,
        store: ArenaStore,
        categories: Mapping[str, Category],
        *,
        now: Callable[[], float] = time.monotonic,
        most_a_day: int | None = MOST_A_DAY,
    ) -> None:
        """
        Args:
            categories: those to show beside the ones that a vote itself tells.
            most_a_day: votes of one voter that count on one day; None counts all.
        """
        self._store = store
        self._categories = tuple(categories.values())
        self._now = now
        self._live = LiveLeaderboard(store, most_a_day=most_a_day)
        self._measured = Measured(store, most_a_day=most_a_day)
        self._lock = threading.Lock()  # guards the four below
        self._thread: threading.Thread | None = None
        self._shown_upto = 0
        self._again_at = float("-inf")
        self._ended = threading.Event()

    def leaderboard(self) -> Leaderboard:
        """The boards of now: the live ones of every vote, the others as they were made last.

        Raises:
            StoreError: the store cannot be read now.
        """
        found = self._live.leaderboard()
        self._renew()
        return found

    def wait(self) -> None:
        """Returns when no boards are being made."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def close(self) -> None:
        """Ends the making of boards; the store may be closed afterwards."""
        self._ended.set()
        self.wait()

    def _renew(self) -> None:
        """Begins to make boards anew where that is due."""
        with self._lock:
            busy = self._thread is not None and self._thread.is_alive()
            if busy or self._ended.is_set() or self._now() < self._again_at:
                return
            if self._store.last_vote() == self._shown_upto:
                return
            self._thread = threading.Thread(target=self._make, name="categories", daemon=True)
            self._thread.start()

    def _make(self) -> None:
        """On the thread: one set of boards."""
        began = self._now()
        upto = self._shown_upto
        try:
            upto = self._store.last_vote()
            self._measured.read(self._rest)
            self._live.set_details(category_boards(self._measured.blind(), self._categories))
        except _Ended:
            return
        except StoreError as error:
            log.warning("the boards of the categories stay as they are: %s", error.message)
            upto = self._shown_upto
        except Exception:  # a fault here must not be tried again at every look
            log.exception("the boards of the categories could not be made")
        ended = self._now()
        with self._lock:
            self._shown_upto = upto
            self._again_at = ended + max(SHORTEST_S, SHARE * (ended - began))

    def _rest(self, seconds: float) -> None:
        """Leaves the processor to others for as long as it was used.

        Raises:
            _Ended: the thread is to end.
        """
        if self._ended.wait(seconds):
            raise _Ended
