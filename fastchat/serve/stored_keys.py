"""The keys of the store, as a gateway holds them: in memory, and looked at again every second.

A key that was revoked stops at the next look, a new one works at once. What is no key of ours
asks the database four at a time, with a bounded queue, and the same one not twice in a moment.
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastchat.errors import AuthenticationError, BusyError, FastChatError, StoreError
from fastchat.serve.ledger import READ_EVERY_S, WRITE_EVERY_S, Ledger
from fastchat.serve.limits import Account, Caller

if TYPE_CHECKING:
    from fastchat.store.database import Database
    from fastchat.store.keys import ApiKey

log = logging.getLogger(__name__)

KEY_MARK = b"fc-"
MAX_KEY_LENGTH = 128
LOOK_EVERY_S = 1.0
UNKNOWN_FOR_S = 2.0
MAX_UNKNOWN = 10_000
MAX_LOOKUPS = 64
LOOKUPS_AT_ONCE = 4
MAX_HELD = 100_000
IDLE_S = 600.0


class _Held:
    """A key in memory."""

    __slots__ = ("account", "digest", "used_at")

    def __init__(self, account: Account, digest: str | None, used_at: float) -> None:
        self.account = account
        self.digest = digest
        self.used_at = used_at


class StoredKeys:
    """Knows callers by their keys.

    Args:
        open_database: called once, in a thread.
        on_end: told the id of each key that was revoked or has expired.
        now: a clock that only goes forward, in seconds.
        wall: UTC seconds.
    """

    def __init__(
        self,
        open_database: "Callable[[], Database]",
        *,
        on_end: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._open_database = open_database
        self._on_end = on_end
        self._now = now
        self._wall = wall
        self._by_digest: dict[str, _Held] = {}
        self._by_id: OrderedDict[str, _Held] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()  # digest: until when
        self._n_lookups = 0
        self._lookups = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self._is_failing = False
        self._database: Database | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Opens the store, unless it is open. Blocks.

        Raises:
            FastChatError: the database cannot be opened.
        """
        from fastchat.store.keys import KeyStore
        from fastchat.store.usage import UsageStore

        if self._database is not None:
            return
        database = self._open_database()
        self._keys = KeyStore(database)
        self.ledger = Ledger(UsageStore(database), wall=self._wall)
        self._database = database
        if not self._keys.all():
            log.warning(
                "stored keys are on and there is none: "
                "make one by python3 -m fastchat.serve.keys create --name NAME"
            )

    async def start(self) -> None:
        """Opens the store and begins to look at it.

        Raises:
            FastChatError: the database cannot be opened.
        """
        await asyncio.to_thread(self.open)
        self._tasks = [
            asyncio.create_task(self._repeat(self.look, LOOK_EVERY_S)),
            asyncio.create_task(self._repeat(self.ledger.write, WRITE_EVERY_S)),
            asyncio.create_task(self._repeat(self._read_days, READ_EVERY_S)),
        ]

    async def stop(self) -> None:
        """Writes what is left, and closes the store."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.ledger.write()
        except StoreError as error:
            log.error("use was not written: %s", error.message)
        if self._database is not None:
            await asyncio.to_thread(self._database.close)

    # ---- who is it

    async def caller(self, key: bytes) -> Caller | None:
        """Whoever holds this key; None when it is none of ours, or ended.

        Raises:
            BusyError: too many unknown keys are asked for at once.
            StoreError: it is not in memory, and the store cannot be asked.
        """
        if not key.startswith(KEY_MARK) or len(key) > MAX_KEY_LENGTH:
            return None
        digest = hashlib.sha256(key).hexdigest()
        held = self._by_digest.get(digest)
        if held is None:
            held = await self._look_up(digest)
        return self._caller(held)

    async def caller_with_id(self, key_id: str) -> Caller:
        """The key of this id, for work that goes on without its owner.

        Raises:
            AuthenticationError: there is none any more.
            StoreError: it is not in memory, and the store cannot be asked.
        """
        held = self._by_id.get(key_id)
        if held is None:
            found = await asyncio.to_thread(self._keys.with_ids, [key_id])
            held = await self._hold(found[0], digest=None) if found else None
        if (caller := self._caller(held)) is None:
            raise AuthenticationError("The API key of this work was revoked or has expired.")
        return caller

    def _caller(self, held: _Held | None) -> Caller | None:
        if held is None or not held.account.key.is_valid(self._wall()):
            return None
        held.used_at = self._now()
        return Caller(held.account)

    async def _look_up(self, digest: str) -> _Held | None:
        until = self._unknown.get(digest)
        if until is not None and self._now() < until:
            return None
        if self._n_lookups >= MAX_LOOKUPS:
            raise BusyError("Too many unknown API keys are being checked; try again.")
        self._n_lookups += 1
        try:
            async with self._lookups:
                key = await asyncio.to_thread(self._keys.with_digest, digest)
        finally:
            self._n_lookups -= 1
        if key is None:
            self._unknown[digest] = self._now() + UNKNOWN_FOR_S
            while len(self._unknown) > MAX_UNKNOWN:
                self._unknown.popitem(last=False)
            return None
        self._unknown.pop(digest, None)
        return await self._hold(key, digest=digest)

    async def _hold(self, key: "ApiKey", *, digest: str | None) -> _Held:
        """Takes a key into memory, with what it used today."""
        await self.ledger.read([key.id])
        held = self._by_id.get(key.id)
        if held is None:
            account = Account(key, self.ledger, now=self._now, wall=self._wall)
            held = self._by_id[key.id] = _Held(account, digest, self._now())
        if digest is not None:
            held.digest = digest
            self._by_digest[digest] = held
        while len(self._by_id) > MAX_HELD:
            self._drop(next(iter(self._by_id)))
        return held

    def _drop(self, key_id: str) -> None:
        held = self._by_id.pop(key_id, None)
        if held is None:
            return
        if held.digest is not None:
            self._by_digest.pop(held.digest, None)
        self.ledger.forget(key_id)

    # ---- what goes on beside

    async def look(self) -> None:
        """Looks at every key in memory again.

        Raises:
            StoreError: the store cannot be asked now.
        """
        held = dict(self._by_id)
        if not held:
            return
        found = {key.id: key for key in await asyncio.to_thread(self._keys.with_ids, list(held))}
        for key_id in held:
            if (key := found.get(key_id)) is not None:
                held[key_id].account.change(key)
            if key is None or not key.is_valid(self._wall()):
                self._on_end(key_id)
            is_idle = self._now() - held[key_id].used_at > IDLE_S
            if key is None or (is_idle and not held[key_id].account.is_busy):
                self._drop(key_id)

    async def _read_days(self) -> None:
        limited = [
            key_id
            for key_id, held in self._by_id.items()
            if held.account.key.limits.requests_per_day is not None
            or held.account.key.limits.tokens_per_day is not None
        ]
        if limited:
            await self.ledger.read(limited)

    async def _repeat(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Does `work` again and again; a store that fails is told once, and asked again."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await work()
                self._is_failing = False
            except FastChatError as error:
                if not self._is_failing:
                    log.error("the store of keys: %s", error.message)
                self._is_failing = True
            except Exception:
                log.exception("the store of keys failed")
