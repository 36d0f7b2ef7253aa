"""Votes as the store knows them."""

from typing import Any

from fastchat.store.arena_records import StoredBattle, StoredConversation, StoredVote

T0 = 1_700_000_000.0


def stored_vote(key: str, outcome: Any, **more: Any) -> StoredVote:
    """A vote on two answers of m-a and m-b."""
    a, b = (
        StoredConversation(
            id=f"{key}-{side}",
            model=f"m-{side}",
            messages=(("user", "How do I cook an egg?"), ("assistant", f"Boil it. **{side}**")),
            updated_at=T0,
        )
        for side in "ab"
    )
    kind = more.pop("kind", "anonymous")
    battle = StoredBattle(id=key, kind=kind, a=a, b=b, started_at=T0, **more)
    return StoredVote(battle=battle, outcome=outcome, turn=1, voted_at=T0 + 1, voter="v")
