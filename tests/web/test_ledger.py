"""The arena's memory: groups of votes, failures, what is acknowledged."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastchat.arena.events import Event, LoggedState, log_files, read_events
from fastchat.errors import StoreError
from fastchat.store import database as database_module
from fastchat.store.arena import ArenaStore
from fastchat.store.arena_records import StoredBattle, StoredConversation, StoredVote
from fastchat.store.database import Database
from fastchat.web.ledger import Ledger


def vote(key: str) -> tuple[StoredVote, Event]:
    a, b = (
        StoredConversation(id=f"{key}{m}", model=m, messages=(("user", key),), updated_at=1.0)
        for m in "ab"
    )
    states = tuple(LoggedState(conv_id=c.id, model_name=c.model, messages=()) for c in (a, b))
    battle = StoredBattle(id=key, kind="anonymous", a=a, b=b, started_at=1.0)
    line = Event(type="leftvote", tstamp=1.0, models=("", ""), states=states)
    return StoredVote(battle=battle, outcome="leftvote", turn=1, voted_at=1.0), line


@pytest.fixture
def store(database_url: str) -> ArenaStore:
    return ArenaStore(Database(database_url))


@pytest.fixture
async def ledger(store: ArenaStore, tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = Ledger(store, log_folder=tmp_path / "logs")
    yield opened
    await opened.close()
    store.database.close()


async def give(ledger: Ledger, key: str) -> bool:
    record, line = vote(key)
    [new] = await ledger.write([record], [line])
    return new


def n_lines(tmp_path: Path) -> int:
    return len(list(read_events(log_files(tmp_path / "logs"))))


async def test_votes_that_come_together_are_written_together(
    ledger: Ledger, store: ArenaStore, tmp_path: Path
) -> None:
    keys = [str(i % 40) for i in range(80)]
    new = await asyncio.gather(*(give(ledger, key) for key in keys))
    assert sum(new) == 40 == len(store.votes()) == n_lines(tmp_path)


async def test_a_locked_store_refuses_and_the_log_stays_without_the_vote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_S", 0)
    path = tmp_path / "arena.db"
    store = ArenaStore(Database(str(path)))
    ledger = Ledger(store, log_folder=tmp_path / "logs")
    assert await give(ledger, "1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError):
        await give(ledger, "2")
    record, line = vote("3")
    ledger.write_later([record.battle], [line])
    while not ledger.lost:
        await asyncio.sleep(0.01)
    other.execute("ROLLBACK")
    other.close()
    assert await give(ledger, "2"), "the same vote may be given again"
    await ledger.close()
    assert len(store.votes()) == 2
    assert n_lines(tmp_path) == 3, "a chat that the store did not take is in the log"
    store.database.close()


async def test_a_full_log_costs_no_vote(
    store: ArenaStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be", "utf-8")
    ledger = Ledger(store, log_folder=tmp_path / "logs")
    assert await give(ledger, "1")
    assert "cannot be written" in caplog.text
    await ledger.close()
    assert len(store.votes()) == 1
    store.database.close()


async def test_refusals_reach_the_store_at_the_latest_at_the_end(
    store: ArenaStore, tmp_path: Path
) -> None:
    ledger = Ledger(store, log_folder=None)
    for _ in range(10_000):
        ledger.refuse("rate")
    ledger.refuse("voted")
    await ledger.close()
    assert store.refused() == {"rate": 10_000, "voted": 1}
    store.database.close()


async def test_too_much_at_once_is_refused(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, store: ArenaStore
) -> None:
    from fastchat.web import ledger as module

    monkeypatch.setattr(module, "WAITING_LIMIT", 5)
    results = await asyncio.gather(
        *(give(ledger, str(i)) for i in range(9)), return_exceptions=True
    )
    refused = [r for r in results if isinstance(r, StoreError)]
    assert len(refused) == 4
    assert len(store.votes()) == 5
