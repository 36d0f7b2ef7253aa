"""A duel without a page: limits, stopping, choosing, what the log is told."""

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.arena.events import Event, log_files, read_events
from fastchat.arena.pairing import PairingFile
from fastchat.message import Message
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database
from fastchat.web.battle_view import Look, drawn, phase_of
from fastchat.web.duel import Duels, Limits, Question
from fastchat.web.duel_records import Duel, Side
from fastchat.web.guard import CallMonitor, VoteLimit
from fastchat.web.ledger import Ledger
from fastchat.web.models import ModelDirectory, Source
from fastchat.web.pane import TURN_LIMIT
from fastchat.web.pieces import Sampling
from fastchat.web.texts import load_texts
from fastchat.web.visitors import Visitor

TEXTS = load_texts()
WORDS = TEXTS.arena
READER = Visitor(session="s", address="1.2.3.4", voter="v", cookie="c")
OpenDuels = Callable[..., Duels]


@pytest.fixture
async def open_duels(fake: Any, tmp_path: Path) -> AsyncIterator[OpenDuels]:
    database = Database(str(tmp_path / "arena.db"))
    ledger = Ledger(ArenaStore(database), log_folder=tmp_path / "logs")
    directory = ModelDirectory(Source(api_url=fake.url), now=lambda: 0.0)

    def open_one(**settings: Any) -> Duels:
        chosen: dict[str, Any] = {
            "pairing": PairingFile(None),
            "limits": Limits(message=50, anonymous=100),
            "vote_limit": VoteLimit(0, now=lambda: 0.0),
            "now": lambda: 0.0,
            "rng": random.Random(3),
            **settings,
        }
        return Duels(directory, TEXTS, ledger, **chosen)

    yield open_one
    await ledger.close()
    await directory.close()
    database.close()


async def asked(duels: Duels, duel: Duel, text: str, *models: str) -> Duel:
    """The duel once the question is answered."""
    question = Question(text=text, models=models, sampling=Sampling(max_tokens=64))
    async for step in duels.send(duel, question, visitor=READER, key="k"):
        duel = step
    return duel


def two(fake: Any) -> None:
    fake.models = [{"id": "lion"}, {"id": "bear"}]


async def test_one_model_battles_itself(open_duels: OpenDuels, fake: Any) -> None:
    duel = await asked(open_duels(), Duel(), "hello")
    assert [side.model for side in duel.sides] == ["parrot", "parrot"]
    assert duel.can_vote


async def test_nothing_to_do_leaves_the_duel_as_it_is(open_duels: OpenDuels, fake: Any) -> None:
    duels = open_duels()
    duel = await asked(duels, Duel(), "hello")
    empty = Question(text="  ", sampling=Sampling())
    steps = duels.send(duel, empty, visitor=READER, key="k")
    assert [step async for step in steps] == [duel], "an empty question empties no conversation"
    again = duels.regenerate(Duel(), Sampling(), visitor=READER, key="k")
    assert [step async for step in again] == [Duel()]


async def test_no_model_is_told(open_duels: OpenDuels, fake: Any) -> None:
    fake.models = []
    for kind in ("anonymous", "named", "direct"):
        duel = await asked(open_duels(), Duel(kind=kind), "hello")
        assert duel.notice == TEXTS.notice.no_model and not duel.sides


async def test_nothing_is_asked_for_an_empty_message(open_duels: OpenDuels, fake: Any) -> None:
    assert await asked(open_duels(), Duel(), "  \n ") == Duel()
    assert fake.requests == []


async def test_long_messages_are_cut_with_a_notice(open_duels: OpenDuels, fake: Any) -> None:
    duels = open_duels()
    duel = await asked(duels, Duel(), "x" * 150)
    assert duel.notice == TEXTS.notice.cut.format(limit=100)
    assert len(fake.requests[0]["messages"][0]["content"]) == 100
    duel = await asked(duels, Duel(kind="direct"), "x" * 150, "parrot")
    assert TEXTS.notice.cut.format(limit=50) in duel.notice


async def test_the_fifty_first_message_is_refused(open_duels: OpenDuels, fake: Any) -> None:
    duels = open_duels()
    duel = await asked(duels, Duel(), "hello")
    turn = duel.sides[0].messages
    sides = tuple(
        Side(
            model=side.model,
            conversation=side.conversation,
            messages=turn * TURN_LIMIT,
            pictures=((),) * (2 * TURN_LIMIT),
            reason="stop",
        )
        for side in duel.sides
    )
    full = Duel(battle=duel.battle, sides=sides)
    n = len(fake.requests)
    assert (await asked(duels, full, "one more")).notice == TEXTS.notice.full.format(limit=50)
    assert len(fake.requests) == n


@pytest.mark.slow
async def test_a_model_that_fails_twice_rests(open_duels: OpenDuels, fake: Any) -> None:
    two(fake)
    duels = open_duels()
    duel = await asked(duels, Duel(), "try !broken")
    assert not duel.can_vote and duel.can_regenerate
    assert duel.notice.count("could not answer") == 2
    await asked(duels, Duel(), "try !broken")
    assert sorted(duels.outages.resting(now=0.0)) == ["bear", "lion"]
    assert (await asked(duels, Duel(), "hello")).can_vote, "resting models are better than none"


@pytest.mark.slow
async def test_the_operators_rules_decide_who_meets(
    open_duels: OpenDuels, fake: Any, tmp_path: Path
) -> None:
    fake.models = [{"id": "lion"}, {"id": "bear"}, {"id": "hare"}]
    rules = tmp_path / "rules.toml"
    rules.write_text('outages = ["hare"]\n', "utf-8")
    duels = open_duels(pairing=PairingFile(rules))
    for _ in range(5):
        duel = await asked(duels, Duel(), "hello")
        assert {side.model for side in duel.sides} == {"lion", "bear"}
    rules.write_text("default_weight = 0.0\n# nobody\n", "utf-8")
    assert (await asked(duels, Duel(), "hello")).notice == WORDS.no_pair


async def test_a_call_monitor_limits_what_is_chosen_and_never_a_battle(
    open_duels: OpenDuels, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    two(fake)
    monitor = CallMonitor("http://127.0.0.1:1")

    async def reason(model: str, address: str) -> str:
        assert address == "1.2.3.4"
        return "MODEL_HOURLY_LIMIT (lion): 1" if model == "lion" else ""

    monkeypatch.setattr(monitor, "reason", reason)
    duels = open_duels(monitor=monitor)
    duel = await asked(duels, Duel(kind="direct"), "hello", "lion")
    assert "MODEL_HOURLY_LIMIT (lion): 1" in duel.notice and fake.requests == []
    assert (await asked(duels, Duel(kind="direct"), "hello", "bear")).can_flag
    assert (await asked(duels, Duel(), "hello")).can_vote


@pytest.mark.slow
async def test_stopping_keeps_what_came_and_takes_no_vote(open_duels: OpenDuels, fake: Any) -> None:
    two(fake)
    duels = open_duels()
    question = Question(text="count !slow", sampling=Sampling())
    duel = Duel()
    async for step in duels.send(duel, question, visitor=READER, key="k"):
        duel = step
        if all("3" in said[1].text for side in step.sides if (said := side.messages)[1:]) and all(
            side.messages[1:] for side in step.sides
        ):
            duels.stop("k")
    assert duel.notice == WORDS.stopped
    assert [side.reason for side in duel.sides] == ["stopped", "stopped"]
    assert not duel.can_vote and duel.has_answers
    fake.wait_until(lambda: fake.given_up == 2)


async def test_one_side_that_fails_spoils_the_vote_only(
    open_duels: OpenDuels, fake: Any, tmp_path: Path
) -> None:
    two(fake)
    duels = open_duels()
    duel = await asked(duels, Duel(kind="named"), "try !break", "lion", "bear")
    assert duel.notice.startswith(WORDS.side_a)
    voted = await duels.vote(duel, "left", visitor=READER, key="k")
    assert voted.notice == WORDS.refused_votes["failed"]
    assert (await duels.vote(duel, "nonsense", visitor=READER, key="k")).notice == (
        WORDS.refused_votes["unknown"]
    )
    await duels.ledger.close()
    errors = [e for e in read_events(log_files(tmp_path / "logs")) if isinstance(e, Event)]
    assert [e.type for e in errors] == ["error", "error"]
    assert errors[0].extra["error"] == "error"
    assert duels.ledger.store is not None
    assert duels.ledger.store.refused() == {"failed": 1, "unknown": 1}


def test_names_pass_the_view_after_the_vote_only() -> None:
    said = (Message(role="user", text="q"), Message(role="assistant", text="a"))
    sides = tuple(
        Side(model=name, conversation=name, messages=said, pictures=((), ()), reason="stop")
        for name in ("lion", "bear")
    )
    look = Look(kind="anonymous", vision=False, texts=TEXTS)
    blind = Duel(battle="b", sides=sides)
    assert "lion" not in repr(drawn(blind, look)[2:]) and "lion" not in repr(phase_of(blind))
    told = Duel(battle="b", sides=sides, vote="left")
    assert (phase_of(told).names.a, phase_of(told).names.b) == ("lion", "bear")
    assert phase_of(told).is_over and not phase_of(told).can_regenerate
    named = Duel(kind="named", battle="b", sides=sides, vote="left")
    assert not phase_of(named).is_over and phase_of(named).can_regenerate
