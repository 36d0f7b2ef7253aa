"""How long an arena keeps what people said: after so many days it is forgotten, hour by hour."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from fastchat.arena.forget import remove_days, remove_pictures
from fastchat.errors import StoreError
from fastchat.store.arena_forget import Forgotten, forget_before
from fastchat.store.database import Database

log = logging.getLogger(__name__)

DAY_S = 86_400.0
EVERY_S = 3600.0


class Retention:
    """Forgets what is older than so many days; votes and their outcomes stay."""

    def __init__(
        self,
        database: Database,
        log_folder: Path | None,
        *,
        days: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            log_folder: where the daily logs and the pictures lie, if they are written.
            days: how long texts, pictures, shared pages and voters' names are kept.
            now: seconds, UTC.
        """
        self._database = database
        self._log_folder = log_folder
        self._days = days
        self._now = now

    def forget(self) -> Forgotten:
        """Forgets what is too old now.

        Raises:
            StoreError: the store cannot be used now; nothing was forgotten.
            OSError: a file cannot be removed.
        """
        moment = self._now() - self._days * DAY_S
        found = forget_before(self._database, moment)
        if self._log_folder is not None:
            remove_pictures(self._log_folder, found.pictures)
            remove_days(self._log_folder, moment)
        return found

    async def run(self) -> None:
        """Forgets again and again, until it is cancelled."""
        while True:
            try:
                found = await asyncio.to_thread(self.forget)
            except (StoreError, OSError) as error:
                log.error("what is too old could not be forgotten; in an hour again: %s", error)
            else:
                if found != Forgotten():
                    log.info(
                        "forgotten conversations=%d votes=%d shares=%d pictures=%d",
                        found.conversations,
                        found.votes,
                        found.shares,
                        len(found.pictures),
                    )
            await asyncio.sleep(EVERY_S)
