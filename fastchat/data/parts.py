"""Which rounds of a long conversation form a part. Knows lengths, not texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rounds that stay together, by their indices."""

    context: int
    """The first round shown; those before `start` stand in an earlier part too."""
    start: int
    """The first round of its own."""
    stop: int
    """One behind the last."""
    is_overlong: bool = False
    """A single round that is longer than the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Estimates that settle most questions, and the true length for the rest."""

    head: int
    rounds: Sequence[int]
    slack: Callable[[int], int]
    """How far the estimate for so many rounds may be from the truth."""
    true_length: Callable[[int, int], int]
    """The length of rounds `start` up to `stop`, with what stands before them."""

    def fits(self, start: int, stop: int, *, limit: int) -> bool:
        """Whether rounds `start` up to `stop` are no longer than `limit` together."""
        estimate = self.head + sum(self.rounds[start:stop])
        slack = self.slack(stop - start)
        if estimate <= limit - slack:
            return True
        # One round is declared too long by its true length only: that decides over its text.
        if estimate > limit + slack and stop - start > 1:
            return False
        return self.true_length(start, stop) <= limit


def plan_parts(lengths: Lengths, *, limit: int, overlap: int = 0) -> list[Part]:
    """Parts that hold every round once, in order, each as long as the limit lets it be.

    overlap: how many earlier rounds a part begins with, where they fit beside its first own.
    """
    n_rounds = len(lengths.rounds)
    parts: list[Part] = []
    start = 0
    while start < n_rounds:
        if not lengths.fits(start, start + 1, limit=limit):
            parts.append(Part(context=start, start=start, stop=start + 1, is_overlong=True))
            start += 1
            continue
        context = max(0, start - overlap)
        while context < start and not lengths.fits(context, start + 1, limit=limit):
            context += 1
        stop = start + 1
        while stop < n_rounds and lengths.fits(context, stop + 1, limit=limit):
            stop += 1
        parts.append(Part(context=context, start=start, stop=stop))
        start = stop
    return parts
