"""What a run asks, gets and pays; and the ceiling it never passes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastchat.errors import UnavailableError

CHARACTERS_PER_TOKEN = 3.5
"""For what a run will cost before it begins; English text has about four."""


class CeilingError(UnavailableError):
    """The next request could cost more than is left."""


@dataclass(slots=True, kw_only=True)
class Account:
    """The sums of one run; prices in dollars for a million tokens."""

    max_cost: float | None = None
    n_asked: int = 0
    """Replies that came over the wire or out of the engine."""
    n_from_cache: int = 0
    n_retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    """None where no price is known."""
    retried: Counter[str] = field(default_factory=Counter[str])
    """Why requests were tried again."""
    reported_models: set[str] = field(default_factory=set[str])
    """What the endpoints say they are."""
    left_out: set[str] = field(default_factory=set[str])
    """Parameters that an endpoint refused and was asked without."""
    _reserved: float = 0.0
    _settled: asyncio.Condition = field(default_factory=asyncio.Condition)

    @asynccontextmanager
    async def reserve(self, worst: float) -> AsyncIterator[None]:
        """Keeps `worst` dollars for a request; waits while others hold what it needs.

        Raises:
            CeilingError: it could pass the ceiling although nothing else is in the air.
        """
        if self.max_cost is None:
            yield
            return
        async with self._settled:
            while (self.cost or 0.0) + self._reserved + worst > self.max_cost:
                if not self._reserved:
                    raise CeilingError(
                        f"--max-cost {self.max_cost:g} is reached: ${self.cost or 0.0:.4f} are "
                        f"spent, and the next request may cost ${worst:.4f}. Results so far are "
                        "kept; a higher ceiling goes on from here."
                    )
                await self._settled.wait()
            self._reserved += worst
        try:
            yield
        finally:
            async with self._settled:
                self._reserved = max(0.0, self._reserved - worst)
                if self._reserved < 1e-12:
                    self._reserved = 0.0
                self._settled.notify_all()

    def book(self, prompt_tokens: int, completion_tokens: int, cost: float | None) -> None:
        """Adds what one reply took."""
        self.n_asked += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        if cost is not None:
            self.cost = (self.cost or 0.0) + cost

    def summary(self) -> dict[str, object]:
        """The sums, for the manifest and the last line of a run."""
        return {
            "requests": self.n_asked,
            "from_cache": self.n_from_cache,
            "retries": self.n_retries,
            "retried_for": dict(self.retried),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost_usd": None if self.cost is None else round(self.cost, 6),
            "reported_models": sorted(self.reported_models),
            "parameters_left_out": sorted(self.left_out),
        }


def price(
    prompt_tokens: float, completion_tokens: float, dollars: tuple[float | None, float | None]
) -> float | None:
    """Dollars for so many tokens; None where no price is known."""
    if dollars[0] is None or dollars[1] is None:
        return None
    return (prompt_tokens * dollars[0] + completion_tokens * dollars[1]) / 1e6


def most_tokens(text: str) -> int:
    """As many tokens as `text` can be: one a byte, and what a chat's form adds."""
    return len(text.encode()) + 100


def estimated_tokens(text: str) -> int:
    """About how many tokens `text` is."""
    return int(len(text.encode()) / CHARACTERS_PER_TOKEN) + 8
