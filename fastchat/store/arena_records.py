"""What the arena's memory is told, and what the ratings read from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Outcome = Literal["leftvote", "rightvote", "tievote", "bothbad_vote"]
Kind = Literal["anonymous", "named", "direct"]
Origin = Literal["human", "judge"]
FlagKind = Literal["upvote", "downvote", "flag", "share"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredConversation:
    """What was said with one model."""

    id: str
    model: str
    messages: tuple[tuple[str, Any], ...]
    """Role and content; with pictures the content is a list of the text and their hashes."""
    updated_at: float
    """Seconds since the epoch, UTC."""
    gen_params: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    """Why the last answer failed, if it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBattle:
    """Two conversations with the same questions."""

    id: str
    kind: Kind
    a: StoredConversation
    b: StoredConversation
    started_at: float
    vision: bool = False
    origin: Origin = "human"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVote:
    """Which side of a battle was better."""

    battle: StoredBattle
    outcome: Outcome
    turn: int
    voted_at: float
    voter: str = ""
    """Who voted: a keyed hash, or an address where the operator wants it."""
    waited_s: float | None = None
    """From the end of the slower answer to the vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFlag:
    """A thumb, a flag or a share of a conversation."""

    conversation: StoredConversation
    kind: FlagKind
    turn: int
    at: float
    voter: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """A picture that was sent; its bytes lie in the folder of pictures under its hash."""

    hash: str
    media_type: str
    width: int
    height: int
    size_bytes: int
    seen_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredShare:
    """A page that was shared, as it was."""

    token: str
    page: Mapping[str, Any]
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRefusals:
    """How many votes were refused for one reason on one day (UTC, YYYY-MM-DD)."""

    day: str
    reason: str
    n: int = 1


Record = (
    StoredConversation
    | StoredBattle
    | StoredVote
    | StoredFlag
    | StoredImage
    | StoredShare
    | StoredRefusals
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteColumns:
    """Votes as columns, in the order of their numbers."""

    ids: NDArray[np.int64]
    model_a: NDArray[np.int32]
    """Index into `models`."""
    model_b: NDArray[np.int32]
    outcome: NDArray[np.int8]
    """Index into `OUTCOMES`: leftvote, rightvote, tievote, bothbad_vote."""
    anonymous: NDArray[np.bool_]
    """The names were hidden."""
    human: NDArray[np.bool_]
    vision: NDArray[np.bool_]
    turn: NDArray[np.int32]
    voted_at: NDArray[np.float64]
    voter: tuple[str, ...]
    battle: tuple[str, ...]
    models: tuple[str, ...]
    """Names by index; an index keeps its name for ever, so later columns fit earlier ones."""

    def __len__(self) -> int:
        return len(self.ids)
