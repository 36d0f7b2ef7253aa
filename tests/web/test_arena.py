"""The arena as a program sees it: battles, votes, what is hidden, what is kept."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_session import Session

from fastchat.arena.events import Event, log_files, read_events
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database
from fastchat.web.texts import load_texts

WORDS = load_texts().arena
MODELS = ("secret-lion", "secret-tiger", "secret-bear")


@pytest.fixture
def arena(serve_arena: Callable[..., str], fake: Any) -> str:
    fake.models = [{"id": name, "context_length": 4096} for name in MODELS]
    fake.says_its_name = False
    return serve_arena(votes_per_minute=0)


@pytest.fixture
def session(arena: str) -> Iterator[Session]:
    opened = Session(arena)
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ArenaStore]:
    database = Database(str(tmp_path / "arena.db"))
    yield ArenaStore(database)
    database.close()


def logged(tmp_path: Path, *kinds: str) -> list[Event]:
    found = list(read_events(log_files(tmp_path / "logs")))
    assert all(isinstance(event, Event) for event in found)
    return [event for event in found if isinstance(event, Event) and event.type in kinds]


def named_in(text: str) -> list[str]:
    return [name for name in MODELS if name in text]


def test_a_battle_is_blind_until_the_vote(
    session: Session, store: ArenaStore, fake: Any, tmp_path: Path
) -> None:
    session.battle("hello there")
    session.battle("and again")
    assert fake.requests[-1]["max_tokens"] == 2000
    assert len(fake.requests) == 4
    assert named_in(session.everything) == [], "no payload names a model before the vote"
    assert WORDS.thanks in session.vote("left")
    columns = store.votes()
    assert len(columns) == 1 and columns.anonymous.all() and columns.turn.tolist() == [2]
    [vote] = logged(tmp_path, "leftvote")
    assert vote.models == ("", ""), "the log proves that the vote was blind"
    asked = {request["model"] for request in fake.requests}
    assert {state.model_name for state in vote.states} == asked
    assert [role for role, _ in vote.states[0].messages] == ["user", "assistant"] * 2
    assert vote.extra["battle_id"] == columns.battle[0]
