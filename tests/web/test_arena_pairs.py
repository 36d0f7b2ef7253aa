"""The arena draws its pairs by its own votes, where the operator says so."""

import random
from pathlib import Path

import pytest
from arena_votes import stored_vote

from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database
from fastchat.web.app import PageSettings
from fastchat.web.arena import Arena, ArenaSettings
from fastchat.web.models import Source

MODELS = ["m-a", "m-b", "new"]


@pytest.mark.parametrize(("active", "least", "most"), [("0.0", 0.6, 0.73), ("1.0", 0.99, 1.0)])
async def test_a_new_model_is_met_most_where_the_rules_are_active(
    database_url: str, tmp_path: Path, active: str, least: float, most: float
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(f"active = {active}\n", "utf-8")
    database = Database(database_url)
    outcomes = ("leftvote", "rightvote", "tievote")
    votes = [stored_vote(str(i), outcomes[i % 3]) for i in range(60)]
    ArenaStore(database).record(votes)
    database.close()
    page = PageSettings(source=Source(api_url="http://127.0.0.1:1/v1"))
    arena = Arena(ArenaSettings(page=page, database_url=database_url, arena_config=rules, seed=1))
    try:
        arena.pairs.chances(MODELS, vision=False)  # asks for the votes
        arena.pairs.wait()
        rng = random.Random(2)
        drawn = [arena.duels.pairing.draw(MODELS, rng=rng) for _ in range(600)]
    finally:
        await arena.close()
    assert least <= sum("new" in (pair or ()) for pair in drawn) / 600 <= most
