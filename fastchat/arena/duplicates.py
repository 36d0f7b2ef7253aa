"""Prompts that very many people send, and a sample of them that counts."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastchat.arena.release import prompts

LONGEST = 10_000
"""Characters of a prompt that are compared."""
SEED = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequency:
    """How often prompts come."""

    n_texts: int
    """Different prompts."""
    limit: int
    """Occurrences above which a prompt is of high frequency; so many of it count."""
    frequent: Mapping[str, int]
    """Prompts above the limit, most frequent first."""


def prompt_text(row: Mapping[str, Any]) -> str:
    """What the person wrote in a row, as one text."""
    return "\n".join(prompts(row))[:LONGEST]


def frequency(texts: Iterable[str], percentile: float) -> Frequency:
    """The limit that the share `percentile` of the different texts does not pass."""
    counts = Counter(texts)
    if not counts:
        return Frequency(n_texts=0, limit=1, frequent={})
    limit = max(1, int(np.percentile(list(counts.values()), 100.0 * percentile)))
    often = {text: n for text, n in counts.most_common() if n > limit}
    return Frequency(n_texts=len(counts), limit=limit, frequent=often)


def dedup_tags(texts: Sequence[str], found: Frequency) -> list[dict[str, bool]]:
    """The published `dedup_tag` of each: of high frequency or not, and whether it counts."""
    places: dict[str, list[int]] = {text: [] for text in found.frequent}
    for i, text in enumerate(texts):
        if text in places:
            places[text].append(i)
    rng = random.Random(SEED)
    counted = {i for at in places.values() for i in rng.sample(at, min(found.limit, len(at)))}
    return [
        {"high_freq": text in places, "sampled": text not in places or i in counted}
        for i, text in enumerate(texts)
    ]
