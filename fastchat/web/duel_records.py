"""The duel as a value, and what of it goes into the store and the published log."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from fastchat.arena.events import Event, EventKind, LoggedState
from fastchat.message import Message
from fastchat.store.arena_records import (
    FlagKind,
    Kind,
    Outcome,
    StoredBattle,
    StoredConversation,
    StoredFlag,
    StoredShare,
    StoredVote,
)
from fastchat.web.pane import NO_DRAFT, Draft
from fastchat.web.pieces import Sampling

OUTCOMES: dict[str, Outcome] = {
    "left": "leftvote",
    "right": "rightvote",
    "tie": "tievote",
    "both_bad": "bothbad_vote",
}
THUMBS: tuple[FlagKind, ...] = ("upvote", "downvote", "flag")
WHOLE = ("stop", "length")
"""How answers end that may be compared."""
SCHEMA = 1
"""Of the fields that our log has beside the published ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One conversation with one model, and how its last answer ended."""

    model: str
    conversation: str
    """Its id, 128 random bits."""
    messages: tuple[Message, ...] = ()
    pictures: tuple[tuple[str, ...], ...] = ()
    """Hashes of the pictures of each message."""
    reason: str = ""
    """stop, length, stopped, error, cut_off or silent; empty before the first answer."""
    problem: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0

    def with_answer(self, text: str) -> "Side":
        """With `text` as the answer to its last question; nothing is no answer."""
        if not text.strip():
            return self
        said = Message(role="assistant", text=text)
        return replace(self, messages=(*self.messages, said), pictures=(*self.pictures, ()))

    def asked_again(self) -> "Side":
        """Without the answer to its last question."""
        if not self.messages or self.messages[-1].role != "assistant":
            return self
        return replace(self, messages=self.messages[:-1], pictures=self.pictures[:-1])

    def logged(self) -> tuple[tuple[str, Any], ...]:
        """Role and content of each message, as the log has them."""
        return tuple(
            (said.role, [said.text, list(hashes)] if hashes else said.text)
            for said, hashes in zip(self.messages, self.pictures, strict=True)
        )

    def stored(self) -> StoredConversation:
        """As the store keeps it."""
        return StoredConversation(
            id=self.conversation,
            model=self.model,
            messages=self.logged(),
            updated_at=self.ended_at,
            error="" if self.reason in WHOLE else self.reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """What was asked and answered, and what has become of it."""

    kind: Kind = "anonymous"
    battle: str = ""
    """Id of the battle that the next vote decides; 128 random bits."""
    sides: tuple[Side, ...] = ()
    running: bool = False
    vote: str = ""
    """A key of `OUTCOMES`, once there is a vote on the last answers."""
    flagged: str = ""
    """One of `THUMBS`, once the last answer has one."""
    notice: str = ""
    sent: int = 0
    """How often the message box was emptied into a question."""
    draft: Draft = NO_DRAFT
    """What stood in the message box then."""
    cookie: str = ""
    """The browser that asked the first question; only it may vote."""
    vision: bool = False
    """It began with a picture."""
    begun_at: float = 0.0

    @property
    def turns(self) -> int:
        """Questions asked so far."""
        return sum(m.role == "user" for m in self.sides[0].messages) if self.sides else 0

    @property
    def has_answers(self) -> bool:
        """Whether anything was answered."""
        return any(m.role == "assistant" for side in self.sides for m in side.messages)

    @property
    def is_whole(self) -> bool:
        """Whether every side has answered the last question to the end."""
        done = [s.reason in WHOLE and s.messages[-1:] for s in self.sides]
        return bool(done) and all(done) and not self.running

    @property
    def can_vote(self) -> bool:
        """Whether there are two whole answers that nobody has voted on."""
        return self.is_whole and not self.vote and len(self.sides) == 2

    @property
    def can_flag(self) -> bool:
        """Whether there is a whole answer without a thumb."""
        return self.is_whole and not self.flagged and len(self.sides) == 1

    @property
    def can_regenerate(self) -> bool:
        """Whether there is a question to be answered again."""
        asked = bool(self.sides) and bool(self.sides[0].messages)
        return asked and not self.running and not (self.kind == "anonymous" and self.vote)

    def asked(self, said: Message, hashes: tuple[str, ...]) -> "Duel":
        """With one more question to every side; after a vote it is another battle's."""
        sides = tuple(
            replace(s, messages=(*s.messages, said), pictures=(*s.pictures, hashes), reason="")
            for s in self.sides
        )
        return replace(self._undecided(), sides=sides)

    def asked_again(self) -> "Duel":
        """With the last answers taken back; after a vote it is another battle's."""
        sides = tuple(replace(side.asked_again(), reason="") for side in self.sides)
        return replace(self._undecided(), sides=sides)

    def with_answers(self, texts: Sequence[str]) -> "Duel":
        """With `texts` as the answers so far."""
        sides = zip(self.sides, texts, strict=True)
        return replace(self, sides=tuple(side.with_answer(text) for side, text in sides))

    def _undecided(self) -> "Duel":
        if not self.vote:
            return self
        return replace(self, vote="", battle=secrets.token_hex(16))


def stored_battle(duel: Duel) -> StoredBattle:
    """The battle of two sides."""
    a, b = duel.sides
    return StoredBattle(
        id=duel.battle,
        kind=duel.kind,
        a=a.stored(),
        b=b.stored(),
        started_at=duel.begun_at,
        vision=duel.vision,
    )


def stored_vote(duel: Duel, outcome: Outcome, *, voter: str, at: float) -> StoredVote:
    """The vote with its battle."""
    return StoredVote(
        battle=stored_battle(duel),
        outcome=outcome,
        turn=duel.turns,
        voted_at=at,
        voter=voter,
        waited_s=round(at - max(side.ended_at for side in duel.sides), 3),
    )


def stored_flag(duel: Duel, kind: FlagKind, *, voter: str, at: float) -> tuple[StoredFlag, Event]:
    """A thumb or flag, and its line."""
    side = duel.sides[0]
    record = StoredFlag(conversation=side.stored(), kind=kind, turn=duel.turns, at=at, voter=voter)
    line = Event(
        type=cast(EventKind, kind),
        tstamp=at,
        models=(side.model,),
        states=(logged_state(side),),
        ip=voter,
        extra=_extra(duel),
    )
    return record, line


def stored_share(token: str, page: Mapping[str, Any], *, at: float) -> StoredShare:
    """A page to be shared."""
    return StoredShare(token=token, page=page, created_at=at)


def page_of(duel: Duel, names: Sequence[str]) -> dict[str, Any]:
    """What a shared page shows: names as they were shown, and what was said."""
    return {
        "kind": duel.kind,
        "vote": duel.vote,
        "sides": [
            {"name": name, "messages": [[m.role, m.text] for m in side.messages]}
            for name, side in zip(names, duel.sides, strict=True)
        ],
        "conversations": [side.conversation for side in duel.sides],  # not shown: see `forget`
    }


def vote_line(duel: Duel, kind: EventKind, *, ip: str, at: float) -> Event:
    """The line of a vote or a share; in a blind battle without the names that were not shown."""
    hidden = duel.kind == "anonymous" and not duel.vote
    return Event(
        type=kind,
        tstamp=at,
        models=tuple("" if hidden else side.model for side in duel.sides),
        states=tuple(logged_state(side) for side in duel.sides),
        ip=ip,
        extra=_extra(duel),
    )


def turn_lines(
    duel: Duel, sampling: Sampling, *, ip: str, extra: Mapping[str, Any] | None = None
) -> list[Event]:
    """A line for each side's answer: a chat, or an error where it failed."""
    return [
        Event(
            type="error" if side.reason in ("error", "cut_off", "silent") else "chat",
            tstamp=side.ended_at,
            models=(side.model,),
            states=(logged_state(side),),
            ip=ip,
            gen_params={
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_new_tokens": sampling.max_tokens,
            },
            start=side.started_at,
            finish=side.ended_at,
            extra=_extra(duel)
            | ({"error": side.reason} if side.reason not in ("", *WHOLE) else {})
            | dict(extra or {}),
        )
        for side in duel.sides
    ]


def logged_state(side: Side) -> LoggedState:
    """A side as the log has it."""
    return LoggedState(
        conv_id=side.conversation,
        model_name=side.model,
        messages=side.logged(),
        template_name="api",
    )


def _extra(duel: Duel) -> dict[str, Any]:
    """What our lines have beside the published fields."""
    battle = {"battle_id": duel.battle} if duel.battle else {}
    return {"id": secrets.token_hex(16), "schema": SCHEMA, "turn": duel.turns, **battle}
