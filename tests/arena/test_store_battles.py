from pathlib import Path
from typing import Any

import pytest
from arena_votes import stored_vote

from fastchat.arena.store_battles import battles_of_store
from fastchat.errors import UsageError
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database


def test_votes_of_the_store_are_battles_and_judges_are_left_out(
    database_url: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("fastchat.arena.store_battles.CHUNK", 2)
    database = Database(database_url)
    ArenaStore(database).record(
        [
            stored_vote("1", "leftvote"),
            stored_vote("2", "rightvote"),
            stored_vote("3", "bothbad_vote"),
            stored_vote("4", "leftvote", origin="judge"),
            stored_vote("5", "leftvote", kind="named"),
        ]
    )
    database.close()
    table = battles_of_store(database_url)
    assert table.frame["winner"].to_list() == ["model_a", "model_b", "tie (bothbad)", "model_a"]
    assert table.frame["anony"].to_list() == [True, True, True, False]
    assert table.frame["bold_count_a"].to_list() == [1.0] * 4
    assert table.frame["language"].to_list() == ["English"] * 4
    assert table.refused == {"judge_vote": 1}


def test_an_empty_store_has_no_battles(database_url: str) -> None:
    database = Database(database_url)
    ArenaStore(database)
    database.close()
    assert battles_of_store(database_url).frame.height == 0


def test_a_database_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not there"):
        battles_of_store(str(tmp_path / "typo.db"))
    assert list(tmp_path.iterdir()) == []
