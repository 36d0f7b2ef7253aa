"""A gateway's use of the store: what its keys used is written soon, and what others wrote is read.

Between two writings, which are a moment apart, the counts live here; a gateway that is killed
loses no more than that.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastchat.store.usage import Usage, UsageStore

log = logging.getLogger(__name__)

WRITE_EVERY_S = 0.5
READ_EVERY_S = 2.0


class Ledger:
    """Counts of use, between requests and the store.

    Args:
        store: called in threads only.
        wall: UTC seconds.
    """

    def __init__(self, store: "UsageStore", *, wall: Callable[[], float] = time.time) -> None:
        from fastchat.store.usage import Place, Usage, day_of

        self._place, self._usage, self._day_of = Place, Usage, day_of
        self._store = store
        self._wall = wall
        self._new: dict[Place, Usage] = {}
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
        place = self._place(day=self._day_of(self._wall()), key_id=key_id, model=model)
        amount = self._usage(
            requests=requests,
            prompt_tokens=prompt,
            completion_tokens=completion,
            estimated_requests=int(is_estimated),
        )
        known = self._new.get(place)
        self._new[place] = amount if known is None else known + amount
        self._count(place.day, key_id, amount)

    def today(self, key_id: str) -> tuple[int, int]:
        """Requests and tokens of the present UTC day, those of other gateways as last read."""
        day = self._day_of(self._wall())
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
            day = self._day_of(self._wall())
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
                await asyncio.to_thread(self._store.add, writing)
            except Exception:
                for place, amount in writing.items():
                    known = self._new.get(place)
                    self._new[place] = amount if known is None else known + amount
                raise
            for place, amount in writing.items():
                self._count(place.day, place.key_id, amount, sign=-1)
                day, requests, tokens = self._stored.get(place.key_id, (place.day, 0, 0))
                if day == place.day:
                    total = (day, requests + amount.requests, tokens + amount.tokens)
                    self._stored[place.key_id] = total

    def _count(self, day: int, key_id: str, amount: "Usage", *, sign: int = 1) -> None:
        requests, tokens = self._unstored.get((day, key_id), (0, 0))
        left = (requests + sign * amount.requests, tokens + sign * amount.tokens)
        if left == (0, 0):
            self._unstored.pop((day, key_id), None)
        else:
            self._unstored[day, key_id] = left
