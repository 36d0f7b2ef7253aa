"""Prompts that very many people send, and a sample of them that counts."""

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastchat.arena.release import prompts
from fastchat.arena.scratch import RowSpool, Scratch, digest

LONGEST = 10_000
"""Characters of a prompt that are compared."""
SEED = 42
SHOWN = 10
"""Prompts of high frequency whose texts are kept for the report."""


@dataclass(slots=True, kw_only=True)
class Duplicates:
    """What was found out about the prompts of rows."""

    n_rows: int = 0
    n_texts: int = 0
    """Different prompts."""
    limit: int = 1
    """Occurrences above which a prompt is of high frequency; so many of it count."""
    n_frequent: int = 0
    """Rows of high frequency."""
    n_counted: int = 0
    """Rows that count: all others, and a sample of those."""
    frequent: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """The most frequent prompts above the limit, with their occurrences."""


def prompt_text(row: Mapping[str, Any]) -> str:
    """What the person wrote in a row, as one text."""
    return "\n".join(prompts(row))[:LONGEST]


def marked(
    rows: Iterable[Mapping[str, Any]], percentile: float, found: Duplicates
) -> Iterator[dict[str, Any]]:
    """The rows with the published `dedup_tag`: of high frequency or not, and whether it counts.

    Rows and what is known of their prompts wait on the disk.

    percentile: share of the different prompts that are not of high frequency.
    found: is filled in; it is complete when the last row was given.
    """
    with Scratch() as counts, RowSpool(_counting(rows, counts)) as spool:
        found.n_rows, found.n_texts = len(spool), len(counts)
        found.limit = limit_of(counts, percentile)
        shown = dict(counts.most(SHOWN, above=found.limit))
        texts: dict[bytes, str] = {}
        drawn = _Sample(found.limit)
        for row in spool:
            key = digest(text := prompt_text(row))
            n = counts.count(key)
            is_frequent = bool(text) and n > found.limit
            counts_too = drawn.takes(counts, key, n) if is_frequent else True
            found.n_frequent += is_frequent
            found.n_counted += counts_too
            if key in shown:
                texts.setdefault(key, text)
            yield row | {"dedup_tag": {"high_freq": is_frequent, "sampled": counts_too}}
        found.frequent = [(texts[key], n) for key, n in shown.items()]


def _counting(rows: Iterable[Mapping[str, Any]], counts: Scratch) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        if text := prompt_text(row):
            counts.add(digest(text))
        yield row


def limit_of(counts: Scratch, percentile: float) -> int:
    """The occurrences that the share `percentile` of the different texts does not pass."""
    pairs = counts.counts()
    if not pairs:
        return 1
    times, texts = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    return max(1, int(np.percentile(np.repeat(times, texts), 100.0 * percentile)))


class _Sample:
    """Draws so many rows of each frequent text, with equal chances, as they come.

    Source: Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._rng = random.Random(SEED)

    def takes(self, counts: Scratch, key: bytes, n: int) -> bool:
        """Whether this row of the text that comes n times counts."""
        state = counts.get(key) or 0
        seen, taken = divmod(state, n + 1)
        is_taken = self._rng.random() * (n - seen) < self._wanted - taken
        counts.put(key, (seen + 1) * (n + 1) + taken + is_taken)
        return is_taken
