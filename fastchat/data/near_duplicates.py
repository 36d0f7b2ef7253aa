"""Finds conversations that use much the same words, by MinHash.

Each text becomes the set of its runs of five words; 128 numbers stand for the set so that two
sets agree in as large a share of their numbers as they share of their runs (Broder 1997). Bands
of eight numbers bring those together that may agree; the numbers themselves then decide.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from zlib import crc32

import numpy as np

N_NUMBERS = 128
BAND = 8
RUN_OF_WORDS = 5
SAME_SHARE = 0.8
"""Two texts that share this much of their runs are the same."""

_PRIME = np.uint64((1 << 31) - 1)
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|\w+")


class NearDuplicates:
    """The texts seen so far, half a kilobyte for each."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self._factors = draw.integers(1, int(_PRIME), N_NUMBERS, dtype=np.uint64)[:, None]
        self._terms = draw.integers(0, int(_PRIME), N_NUMBERS, dtype=np.uint64)[:, None]
        self._signatures: list[np.ndarray] = []
        self._bands: defaultdict[bytes, list[int]] = defaultdict(list)

    def signature(self, texts: Sequence[str]) -> np.ndarray:
        """(128,) uint32: the numbers that stand for the texts together."""
        words = [word for text in texts for word in _WORD.findall(text.lower())]
        n_runs = max(1, len(words) - RUN_OF_WORDS + 1)
        runs = {" ".join(words[i : i + RUN_OF_WORDS]) for i in range(n_runs)}
        # 31 bits, so that a product fits 64.
        hashes = np.fromiter((crc32(run.encode()) >> 1 for run in runs), np.uint64, len(runs))
        mixed = (hashes[None, :] * self._factors + self._terms) % _PRIME
        return mixed.min(axis=1).astype(np.uint32)

    def has(self, signature: np.ndarray) -> bool:
        """Whether a text seen before is much the same."""
        candidates = {i for band in _bands(signature) for i in self._bands.get(band, ())}
        return any(
            float(np.mean(self._signatures[i] == signature)) >= SAME_SHARE for i in candidates
        )

    def add(self, signature: np.ndarray) -> None:
        """Remembers a text."""
        for band in _bands(signature):
            self._bands[band].append(len(self._signatures))
        self._signatures.append(signature)


def _bands(signature: np.ndarray) -> list[bytes]:
    rows = signature.reshape(-1, BAND)
    return [bytes([i]) + row.tobytes() for i, row in enumerate(rows)]
