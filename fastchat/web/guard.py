"""What stands before a turn or a vote: how many votes an address has, what may not be said, and
how often a model may be asked. Each works without any key, and each may be left out.
"""

import logging
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from fastchat.errors import UsageError

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

MODERATED_CHARS = 2000
"""Published: how much of a conversation is looked at beside the new message; a side of a battle
has half of it."""
SEXUAL_LIMIT = 0.3
"""Published: a score above it counts although the service does not flag it."""
MODERATION_TIMEOUT_S = 10.0
MODERATION_TRIES = 3
MONITOR_TIMEOUT_S = 1.0
ADDRESSES = 100_000
"""Addresses whose last votes are remembered; the oldest are forgotten first."""
MINUTE_S = 60.0


class VoteLimit:
    """At most so many votes in a minute from one address."""

    def __init__(self, per_minute: int, *, now: Callable[[], float]) -> None:
        """
        Args:
            per_minute: 0 sets no limit.
        """
        self.per_minute = per_minute
        self._now = now
        self._votes: OrderedDict[str, deque[float]] = OrderedDict()

    def takes(self, address: str) -> bool:
        """Counts a vote of `address`; whether it is within the limit."""
        if not self.per_minute:
            return True
        now = self._now()
        times = self._votes.setdefault(address, deque())
        self._votes.move_to_end(address)
        while len(self._votes) > ADDRESSES:
            self._votes.popitem(last=False)
        while times and times[0] <= now - MINUTE_S:
            times.popleft()
        if len(times) >= self.per_minute:
            return False
        times.append(now)
        return True


class Moderator(Protocol):
    """Says whether a text may go to a model."""

    async def flags(self, text: str) -> bool:
        """Whether `text` may not.

        Raises:
            Exception: it could not be found out.
        """
        ...

    async def close(self) -> None:
        """Closes its connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternModerator:
    """Flags what one of the operator's patterns finds."""

    patterns: Sequence[re.Pattern[str]]

    async def flags(self, text: str) -> bool:
        return any(pattern.search(text) for pattern in self.patterns)

    async def close(self) -> None:
        """Has nothing to close."""


@dataclass(slots=True, kw_only=True)
class OpenAIModerator:
    """Asks a server that speaks OpenAI's moderation API."""

    api_key: str
    base_url: str | None = None
    _client: "AsyncOpenAI | None" = field(default=None, init=False)

    async def flags(self, text: str) -> bool:
        from openai import AsyncOpenAI

        if self._client is None:
            self._client = AsyncOpenAI(
                api_key=self.api_key,
                base_url=self.base_url,
                timeout=MODERATION_TIMEOUT_S,
                max_retries=MODERATION_TRIES - 1,
            )
        reply = await self._client.moderations.create(input=text)
        return any(r.flagged or r.category_scores.sexual > SEXUAL_LIMIT for r in reply.results)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Moderation:
    """A moderator, and what counts when it cannot be asked."""

    moderator: Moderator
    on_failure: Literal["open", "closed"] = "closed"

    async def flags(self, text: str) -> bool:
        """Whether `text` is kept from the models."""
        try:
            return await self.moderator.flags(text)
        except Exception as error:  # whatever it was, the operator has said what then counts
            log.error("moderation failed; it is %s: %s", self.on_failure, type(error).__name__)
            return self.on_failure == "closed"


def moderated_text(conversations: Sequence[Sequence[str]], text: str) -> str:
    """The message with the ends of the conversations that it goes on with."""
    room = MODERATED_CHARS // max(1, len(conversations))
    ends = ["\n".join(said)[-room:] for said in conversations if said]
    return "\n".join([*ends, text])


def read_patterns(path: Path) -> PatternModerator:
    """Regular expressions of a file, one a line; empty lines and those with # are none.

    Raises:
        UsageError: the file cannot be read, holds none, or one is no expression.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--moderation-file {path}: cannot be read ({error}).") from None
    patterns: list[re.Pattern[str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            patterns.append(re.compile(line, re.IGNORECASE))
        except re.error as error:
            raise UsageError(f"--moderation-file {path}: line {number}: {error}.") from None
    if not patterns:
        raise UsageError(f"--moderation-file {path}: holds no expression.")
    return PatternModerator(patterns=tuple(patterns))


class CallMonitor:
    """Asks a call monitor whether somebody has asked a model often enough."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._http: httpx2.AsyncClient | None = None

    async def reason(self, model: str, address: str) -> str:
        """Why `address` may not ask `model` now; empty when it may, or when nobody says."""
        import httpx2

        if self._http is None:
            self._http = httpx2.AsyncClient(timeout=MONITOR_TIMEOUT_S, trust_env=False)
        query = {"model": model, "user_id": address}
        try:
            reply = await self._http.get(f"{self.url}/is_limit_reached", params=query)
            answer = reply.json() if reply.is_success else {}
        except (httpx2.HTTPError, ValueError) as error:
            log.warning("the call monitor does not answer: %s", type(error).__name__)
            return ""
        if not isinstance(answer, dict) or answer.get("is_limit_reached") is not True:
            return ""
        return str(answer.get("reason") or "limit")

    async def close(self) -> None:
        """Closes its connections."""
        if self._http is not None:
            await self._http.aclose()
