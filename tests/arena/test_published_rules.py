"""The published cleaning, rule by rule in its order, on one log: what is kept and every counter."""

from typing import Any

import pytest

from fastchat.arena.battles import Cleaner, CleaningRules
from fastchat.arena.events import Event, LoggedState

T0 = 1_700_000_000.0
ASK = "How do I cook an egg in water?"


def state(model: str | None, *said: str | None, **more: Any) -> LoggedState:
    texts = said or (ASK, "Three minutes.")
    messages = tuple((("user", "assistant")[i % 2], text) for i, text in enumerate(texts))
    values: dict[str, Any] = {"conv_id": "c", "model_name": model, "messages": messages}
    return LoggedState(**(values | more))


def vote(i: int, kind: Any = "leftvote", **more: Any) -> Event:
    values: dict[str, Any] = {"models": ("", ""), "ip": "1.1.1.1", "tstamp": T0 + i}
    values["states"] = (state("m-a"), state("m-b"))
    return Event(type=kind, **(values | more))


NAMED = "<h3>Model A: vicuna-13b</h3>", "<h3>Model B: alpaca-13b</h3>"
LOG = [
    vote(1),
    vote(2, "rightvote"),
    vote(3, "tievote", ip="2.2.2.2"),
    vote(4, "bothbad_vote"),
    # 1: a shown name is null. 3: one shown name is empty. 4: another model than was shown.
    vote(5, models=(None, "x")),
    vote(6, models=("", "m-b")),
    vote(7, models=("m-x", "m-b")),
    # 2 and 4: shown in a heading, both names known; a vote that was not blind.
    vote(8, models=NAMED, states=(state("vicuna-13b"), state("alpaca-13b"))),
    # 5: the offset lies outside.
    vote(9, states=(state("m-a", offset=7), state("m-b"))),
    # 7: a message is empty or null.
    vote(10, states=(state("m-a", ASK, ""), state("m-b"))),
    vote(11, states=(state("m-a"), state("m-b", ASK, None))),
    # 8: an identity word, a part of a word and one of the person's included.
    vote(12, states=(state("m-a", ASK, "I am Vicuna."), state("m-b"))),
    vote(13, states=(state("m-a", ASK, "Under a palm tree."), state("m-b"))),
    vote(14, states=(state("m-a", "Are you ChatGPT?", "No."), state("m-b"))),
    # 9 and 10: errors and answers that have not ended.
    vote(15, states=(state("m-a", ASK, "**API REQUEST ERROR** no"), state("m-b"))),
    vote(16, states=(state("m-a", ASK, "Three▌"), state("m-b"))),
    # 11: renamed, then excluded by the new name.
    vote(17, states=(state("claude-2"), state("m-b"))),
    vote(18, states=(state("bad-model"), state("m-b"))),
    # 12: banned.
    vote(19, ip="6.6.6.6"),
    # By the published rules every vote on a conversation counts.
    vote(20),
]


@pytest.mark.parametrize("published", [True, False])
def test_every_vote_is_kept_or_counted_under_its_rule(published: bool) -> None:
    rules = CleaningRules(
        published=published,
        exclude_models=frozenset({"bad-model"}),
        banned_ips=frozenset({"6.6.6.6"}),
    )
    cleaner = Cleaner(rules, keep_addresses=True)
    rows = list(cleaner.rows(LOG))
    moments = [round(row["tstamp"] - T0) for row in rows]
    dropped = dict(cleaner.report.dropped)
    common = {"no_model": 1, "invalid": 3, "none_msg": 2, "error": 1, "unfinished": 1}
    common |= {"exclude_model": 1, "banned": 1}
    if published:
        assert moments == [1, 2, 3, 4, 8, 17, 20]
        assert dropped == common | {"leaked_identity": 3}
        assert cleaner.report.leaked == {"vicuna": 1, "palm": 1, "chatgpt": 1}
        assert cleaner.report.addresses == {"1.1.1.1": 6, "2.2.2.2": 1, "6.6.6.6": 1}
        assert rows[5]["model_a"] == "claude-2.0"
    else:  # a palm tree and the person's own words give nobody away; one vote a conversation
        assert moments == [1]
        repeated = dropped.pop("repeated_vote")
        assert dropped == common | {"leaked_identity": 1} and repeated == 8
    assert len(rows) + sum(dropped.values()) + (0 if published else repeated) == len(LOG)


def test_outcomes_and_names_are_the_published_ones() -> None:
    rows = list(Cleaner(CleaningRules(published=True), keep_addresses=True).rows(LOG[:8]))
    winners = [row["winner"] for row in rows]
    assert winners == ["model_a", "model_b", "tie", "tie (bothbad)", "model_a"]
    assert [row["anony"] for row in rows] == [True] * 4 + [False]
    assert (rows[4]["model_a"], rows[4]["model_b"]) == ("vicuna-13b", "alpaca-13b")
    assert rows[0]["judge"] == "arena_user_1.1.1.1" and rows[0]["turn"] == 1
