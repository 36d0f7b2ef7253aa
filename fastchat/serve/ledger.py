"""A gateway's use of the store: what its keys used is written soon, and what others wrote is read.

Between two writings, which are a moment apart, the counts live here; a gateway that is killed
loses no more than that.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastchat.store.usage import UsageStore

log = logging.getLogger(__name__)

WRITE_EVERY_S = 0.5
READ_EVERY_S = 2.0
DAY_S = 86400

Counts = dict[tuple[int, str, str], list[int]]
"""By day, key and model: requests, prompt and completion tokens, estimated requests."""


class Ledger:
    """Counts of use, between requests and the store.

    Args:
        store: called in threads only.
        wall: UTC seconds.
    """

    def __init__(self, store: "UsageStore", *, wall: Callable[[], float] = time.time) -> None:
        self._store = store
        self._wall = wall
        self._new: Counts = {}
        self._stored: dict[str, tuple[int, int, int]] = {}  # key id: day, requests, tokens
        self._unstored: dict[tuple[int, str], tuple[int, int]] = {}
        self._turn = asyncio.Lock()  # one writing or reading at a time, so that none is stale

    def add(
        self,
        key_id: str,
        model: str,
        *,
        requests: int,
        prompt: int,
        completion: int,
        is_estimated: bool,
    ) -> None:
        """Counts what was used now."""
        day = self._day()
        _add(self._new, (day, key_id, model), (requests, prompt, completion, int(is_estimated)))
        self._count(day, key_id, requests, prompt + completion)

    def today(self, key_id: str) -> tuple[int, int]:
        """Requests and tokens of the present UTC day, those of other gateways as last read."""
        day = self._day()
        stored_day, requests, tokens = self._stored.get(key_id, (day, 0, 0))
        if stored_day != day:
            requests = tokens = 0
        new_requests, new_tokens = self._unstored.get((day, key_id), (0, 0))
        return requests + new_requests, tokens + new_tokens

    async def read(self, key_ids: Collection[str]) -> None:
        """Takes over what the store knows of these keys' day.

        Raises:
            StoreError: it cannot be read now.
        """
        async with self._turn:
            day = self._day()
            found = await asyncio.to_thread(self._store.of_day, day, key_ids)
            for key_id, usage in found.items():
                self._stored[key_id] = (day, usage.requests, usage.tokens)

    def forget(self, key_id: str) -> None:
        """Drops what was read of a key that nobody uses any more."""
        self._stored.pop(key_id, None)

    async def write(self) -> None:
        """Writes what is new; keeps it for the next time when the store cannot.

        Raises:
            StoreError: it could not be written.
        """
        # A thread cannot be cancelled: what it writes must not be written a second time.
        await asyncio.shield(asyncio.ensure_future(self._write()))

    async def _write(self) -> None:
        async with self._turn:
            if not self._new:
                return
            writing, self._new = self._new, {}
            try:
                await asyncio.to_thread(_store_counts, self._store, writing)
            except Exception:
                for place, amounts in writing.items():
                    _add(self._new, place, amounts)
                raise
            for (day, key_id, _), (requests, prompt, completion, _) in writing.items():
                self._count(day, key_id, -requests, -(prompt + completion))
                stored_day, n, tokens = self._stored.get(key_id, (day, 0, 0))
                if stored_day == day:
                    self._stored[key_id] = (day, n + requests, tokens + prompt + completion)

    def _count(self, day: int, key_id: str, requests: int, tokens: int) -> None:
        """Adds to what of a day is not stored yet."""
        known = self._unstored.get((day, key_id), (0, 0))
        left = (known[0] + requests, known[1] + tokens)
        if left == (0, 0):
            self._unstored.pop((day, key_id), None)
        else:
            self._unstored[day, key_id] = left

    def _day(self) -> int:
        """The number of the present UTC day, as the store counts them."""
        return int(self._wall() // DAY_S)


def _add(counts: Counts, place: tuple[int, str, str], amounts: Sequence[int]) -> None:
    """Plain numbers, because this happens with every request."""
    known = counts.get(place)
    if known is None:
        counts[place] = list(amounts)
    else:
        for i, amount in enumerate(amounts):
            known[i] += amount


def _store_counts(store: "UsageStore", counts: Counts) -> None:
    from fastchat.store.usage import Place, Usage

    store.add(
        {
            Place(day=day, key_id=key_id, model=model): Usage(
                requests=requests,
                prompt_tokens=prompt,
                completion_tokens=completion,
                estimated_requests=estimated,
            )
            for (day, key_id, model), (requests, prompt, completion, estimated) in counts.items()
        }
    )
