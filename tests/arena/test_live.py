from typing import Any

import numpy as np
import pytest
from arena_votes import stored_vote
from voting import random_votes

from fastchat.arena.counts import fold
from fastchat.arena.live import LiveLeaderboard
from fastchat.arena.rating import fit
from fastchat.arena.votes import Votes
from fastchat.store.arena import ArenaStore
from fastchat.store.arena_records import VoteColumns
from fastchat.store.database import Database

T0 = 1_700_000_000.0


class Source:
    """Votes that a test adds to."""

    def __init__(self, models: tuple[str, ...] = ()) -> None:
        self.models = models
        self.rows: list[dict[str, Any]] = []

    def add(self, a: int, b: int, outcome: int = 0, **more: Any) -> None:
        base = {"anonymous": True, "human": True, "turn": 1, "voter": f"v{len(self.rows)}"}
        base |= {"at": T0 + 60.0 * len(self.rows)}
        self.rows.append(base | {"a": a, "b": b, "outcome": outcome} | more)

    def votes(self, *, since: int = 0, limit: int | None = None) -> VoteColumns:
        rows = self.rows[since:][:limit]

        def column(name: str, kind: Any) -> np.ndarray:
            return np.array([row[name] for row in rows], kind)

        return VoteColumns(
            ids=np.arange(since + 1, since + 1 + len(rows)),
            model_a=column("a", np.int32),
            model_b=column("b", np.int32),
            outcome=column("outcome", np.int8),
            anonymous=column("anonymous", np.bool_),
            human=column("human", np.bool_),
            vision=np.array([row.get("vision", False) for row in rows], np.bool_),
            turn=column("turn", np.int32),
            voted_at=column("at", np.float64),
            voter=tuple(row["voter"] for row in rows),
            battle=tuple(str(i) for i in range(len(rows))),
            models=self.models,
        )


def filled(votes: Votes) -> Source:
    source = Source(votes.models)
    for a, b, outcome in zip(votes.a, votes.b, votes.outcome, strict=True):
        source.add(int(a), int(b), int(outcome))
    return source


@pytest.mark.parametrize("pieces", [1, 7, 3000])
def test_boards_are_those_of_all_votes_however_they_come(pieces: int) -> None:
    votes, _ = random_votes(3000 if pieces < 100 else 300, 6)
    complete = filled(votes)
    source = Source(votes.models)
    live = LiveLeaderboard(source)
    for part in np.array_split(np.arange(len(votes)), min(pieces, len(votes))):
        source.rows += complete.rows[part[0] : part[-1] + 1]
        live.leaderboard()
    found = live.leaderboard()
    wanted = fit(fold(votes))
    rows = {row.model: row for row in found.boards["full"].rows}
    for i, model in enumerate(wanted.models):
        assert rows[model].rating == pytest.approx(wanted.rating[i], abs=1e-6)
        assert rows[model].lower == pytest.approx(wanted.lower[i], abs=1e-6)
    decided = fit(fold(votes.take(votes.outcome < 2)))
    best = found.boards["no_tie"].rows[0]
    assert best.rating == pytest.approx(decided.rating.max(), abs=1e-6)
    assert found.history[-1][1] == pytest.approx({m: r.rating for m, r in rows.items()})


def test_a_vote_moves_the_board_and_nothing_else_does() -> None:
    source = filled(random_votes(200, 4)[0])
    live = LiveLeaderboard(source)
    before = live.leaderboard()
    assert live.leaderboard() is before
    source.add(0, 1, 0)
    after = live.leaderboard()
    assert after.first.n_votes == before.first.n_votes + 1
    assert after.updated_at == source.rows[-1]["at"]


def test_votes_that_do_not_count_are_told_by_reason() -> None:
    source = filled(random_votes(100, 4)[0])
    live = LiveLeaderboard(source, most_a_day=3)
    for _ in range(10):
        source.add(0, 1, 0, voter="many", at=T0 + 9000.0)
    source.add(0, 1, 0, anonymous=False)
    source.add(0, 1, 0, human=False)
    source.add(2, 2, 0)
    found = live.leaderboard()
    assert found.first.n_votes == 103
    assert found.refused == {"daily_limit": 7, "named": 1, "judge_vote": 1, "same_model": 1}
    source.add(0, 1, 0, voter="many", at=T0 + 9000.0 + 86_400)
    assert live.leaderboard().first.n_votes == 104


def test_models_may_come_later() -> None:
    source = filled(random_votes(100, 3)[0])
    live = LiveLeaderboard(source, anchor=("m01", 1200.0))
    assert {row.model for row in live.leaderboard().first.rows} == {"m00", "m01", "m02"}
    source.models = (*source.models, "late")
    source.add(3, 0, 0)
    found = live.leaderboard()
    assert "late" in {row.model for row in found.first.rows}
    assert any("never lost" in note for note in found.first.notes)
    assert next(r for r in found.first.rows if r.model == "m01").rating == pytest.approx(1200.0)


def test_no_votes_are_an_empty_board_without_an_anchor() -> None:
    found = LiveLeaderboard(Source(), anchor=("m", 1.0)).leaderboard()
    assert found.first.rows == () and found.first.notes == ("no battles yet.",)
    assert found.updated == "no votes yet" and found.anchor is None


def test_other_boards_stand_beside_the_live_ones() -> None:
    source = filled(random_votes(50, 3)[0])
    live = LiveLeaderboard(source)
    board = live.leaderboard().first
    live.set_details({"english": board, "full": board})
    assert list(live.leaderboard().boards) == ["full", "multiturn", "no_tie", "english"]
    source.add(0, 1, 0)
    assert "english" in live.leaderboard().boards


def test_battles_about_pictures_have_a_board_from_their_first_vote_on() -> None:
    source = filled(random_votes(50, 3)[0])
    live = LiveLeaderboard(source)
    assert "vision" not in live.leaderboard().boards
    source.add(0, 1, 0, vision=True)
    found = live.leaderboard().boards
    assert found["vision"].n_votes == 1 and found["full"].n_votes == 51


@pytest.mark.slow
def test_the_store_is_followed(database_url: str) -> None:
    database = Database(database_url)
    store = ArenaStore(database)
    live = LiveLeaderboard(store)
    store.record([stored_vote("1", "leftvote"), stored_vote("2", "rightvote")])
    assert live.leaderboard().first.n_votes == 2
    store.record([stored_vote("3", "tievote"), stored_vote("3", "leftvote")])
    assert live.leaderboard().first.n_votes == 3
    database.close()
