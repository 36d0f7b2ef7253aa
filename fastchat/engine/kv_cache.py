"""Keys and values of all sequences: who holds which part of a fixed pool, and what is reused.

The pool of a layer is one flat tensor of `budget` tokens. A sequence holds one region of it,
neighbouring tokens laid out `[kv heads, size, dim]`, so that attention reads each head without
a gap and needs no table of pages. Regions come in a few sizes; neighbours of equal size are
one strided view for a batch of rows (`packed.py` does that).

Live sequences are kept together at the low end. A finished one moves to the high end, where it
stays until the room is needed: the next prompt that begins with the same tokens copies what is
there instead of computing it. Moving costs a step or less, and lets the places of those that
left be filled again, without which neighbours would soon be rare.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fastchat.errors import OutOfMemoryError

BLOCK = 16
"""Tokens per entry of the prefix index; shorter common prefixes are computed again."""

GRANULE = 64
"""Region sizes are multiples of this many tokens."""

SMALL = 512
"""Up to here the regions of live sequences double in size, so that many are of one size."""

SCRATCH = 64
"""Tokens after the budget that padding is written to."""

_CANDIDATES = 32
"""Holders of one prefix that are compared, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """What one attention layer stores per token."""

    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        return self.kv_heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the pool, in tokens."""

    start: int
    size: int


class Regions:
    """First-fit allocation over one range; freed neighbours grow together."""

    def __init__(self, size: int) -> None:
        self._gaps: list[tuple[int, int]] = [(0, size)]
        """(start, size), by start; no two touch."""
        self.free = size

    def allocate(self, size: int, *, high: bool = False) -> Region | None:
        """A part of the lowest, or the highest, gap that is large enough; None without one."""
        places = range(len(self._gaps))
        for i in reversed(places) if high else places:
            start, room = self._gaps[i]
            if room < size:
                continue
            first = start + room - size if high else start
            rest = (start if high else start + size, room - size)
            self._gaps[i : i + 1] = [rest] if room > size else []
            self.free -= size
            return Region(first, size)
        return None

    def release(self, region: Region) -> None:
        start, size = region.start, region.size
        self.free += size
        i = bisect_left(self._gaps, (start, 0))
        if i < len(self._gaps) and self._gaps[i][0] == start + size:
            size += self._gaps.pop(i)[1]
        if i > 0 and sum(self._gaps[i - 1]) == start:
            i -= 1
            start, before = self._gaps.pop(i)
            size += before
        self._gaps.insert(i, (start, size))


class CachedText:
    """Tokens and the region with their keys and values; of a live or a finished sequence."""

    __slots__ = ("hashes", "is_live", "key", "n_computed", "n_reused", "region", "tokens")

    def __init__(self, tokens: list[int], region: Region, *, n_computed: int, key: int = 0) -> None:
        self.tokens = tokens
        """Shared with the sequence, which appends to it."""
        self.key = key
        """What computes it: texts of different keys have nothing in common."""
        self.region = region
        self.n_computed = n_computed
        """Tokens whose keys and values are there."""
        self.n_reused = n_computed
        """Of these, tokens that came from another text."""
        self.is_live = True
        self.hashes: list[int] = []
        """Keys of this text in the prefix index."""


class KVCache:
    """The pool, its holders, and the index of their prefixes.

    Not thread-safe: it belongs to the thread that runs the model.
    """

    def __init__(self, shapes: Mapping[int, LayerShape], *, budget: int, longest: int) -> None:
        """
        Args:
            shapes: by layer index.
            budget: tokens of all regions together.
            longest: tokens of the longest sequence; no region needs to be larger.
        """
        self.shapes = dict(shapes)
        self.budget = budget // GRANULE * GRANULE
        self.scratch = self.budget
        self._longest = min(self.budget, -(-longest // GRANULE) * GRANULE)
        n_tokens = self.budget + SCRATCH
        try:
            self.keys = {i: _pool(s, n_tokens, s.key_dim) for i, s in self.shapes.items()}
            self.values = {i: _pool(s, n_tokens, s.value_dim) for i, s in self.shapes.items()}
        except (RuntimeError, MemoryError, ValueError) as error:
            size = n_tokens * sum(s.token_bytes for s in self.shapes.values()) / 2**30
            raise OutOfMemoryError(
                f"A cache of {self.budget} tokens needs {size:.1f} GiB, more than is free; "
                "lower --max-cached-tokens."
            ) from error
        self._regions = Regions(self.budget)
        self._finished: dict[CachedText, None] = {}
        """Least recently used first."""
        self._holders: dict[int, dict[CachedText, None]] = {}
        """Hash of all tokens up to the end of a block -> the texts that begin with them."""

    @property
    def used(self) -> int:
        """Tokens of the budget that are held, live or kept for reuse."""
        return self.budget - self._regions.free

    def find(self, tokens: Sequence[int], *, key: int = 0) -> tuple[CachedText | None, int]:
        """The text of this key that shares the longest beginning with `tokens`, and how long.

        Not all of it need be computed yet (`n_computed`). Of equals, the one computed furthest.
        """
        holders: dict[CachedText, None] = {}
        chain = key
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            chain = hash((chain, *tokens[start : start + BLOCK]))
            if not (found := self._holders.get(chain)):
                break
            holders = found
        best, longest, ready = None, 0, -1
        for text, _ in zip(reversed(holders), range(_CANDIDATES), strict=False):
            common = common_length(text.tokens, tokens) if text.key == key else 0
            if (common, min(common, text.n_computed)) > (longest, ready):
                best, longest, ready = text, common, min(common, text.n_computed)
        return best, longest

    def open(
        self,
        tokens: list[int],
        room: int,
        *,
        source: CachedText | None,
        n_shared: int,
        key: int = 0,
    ) -> CachedText | None:
        """A region for `tokens` and `room` more, its first tokens taken from `source`.

        At least the last token is left to compute. None when all that could be freed would not
        make enough room.
        """
        if source is not None:
            n_shared = min(n_shared, source.n_computed, len(tokens) - 1)
        size, smallest = self._size(len(tokens) + room), self._size(len(tokens) + 1)
        region = self._allocate(size, keep=source) or self._allocate(smallest, keep=source)
        if region is None and source is not None and not source.is_live:
            # Nothing but the source itself can make room: its place is taken over, or it goes.
            self._forget(source)
            if source.region.size > len(tokens):
                text = CachedText(tokens, source.region, n_computed=n_shared, key=key)
                self._remember(text)
                return text
            self._regions.release(source.region)
            region, source = self._allocate(smallest), None
        if region is None:
            return None
        n_computed = 0 if source is None else n_shared
        text = CachedText(tokens, region, n_computed=n_computed, key=key)
        if source is not None:
            self._copy(source.region, region, n_shared)
            if not source.is_live:
                self._finished[source] = self._finished.pop(source)
        self._remember(text)
        return text

    def ensure(self, text: CachedText, n_tokens: int) -> bool:
        """Makes room for `n_tokens` in all; False when nothing more can be freed."""
        if n_tokens <= text.region.size:
            return True
        region = self._allocate(self._size(2 * text.region.size)) or self._allocate(
            self._size(n_tokens)
        )
        if region is None:
            return False
        self._copy(text.region, region, text.n_computed)
        self._regions.release(text.region)
        text.region = region
        return True

    def close(self, text: CachedText, *, keep: bool) -> None:
        """Ends a live text; kept, its region stays for reuse until the room is needed.

        What is not kept is wiped: it may be damaged, and hold what is not a number (`_pool`).
        """
        text.is_live = False
        if keep and text.n_computed >= BLOCK:
            text.tokens = text.tokens[: text.n_computed]
            self._remember(text)
            self._move_up(text)
            self._finished[text] = None
        else:
            self._forget(text)
            try:
                self._wipe(text.region)
            finally:  # a device that cannot even wipe must not fill the cache with the dead
                self._regions.release(text.region)

    def clear(self) -> None:
        """Forgets all finished texts; their contents may be damaged after a failed step."""
        for text in list(self._finished):
            self.close(text, keep=False)

    def _size(self, n_tokens: int) -> int:
        """The region size for `n_tokens`: a power of two while small, then four to a doubling."""
        bits = (n_tokens - 1).bit_length()
        if n_tokens <= SMALL:
            return min(self._longest, max(GRANULE, 1 << bits))
        step = 1 << (bits - 3)
        return min(self._longest, -(-n_tokens // step) * step)

    def _move_up(self, text: CachedText) -> None:
        """Moves a finished text to the high end, where that is above its place."""
        size = -(-text.n_computed // GRANULE) * GRANULE
        region = self._allocate(size, high=True)
        if region is None:
            return
        if region.start < text.region.start:
            self._regions.release(region)
            return
        self._copy(text.region, region, text.n_computed)
        self._regions.release(text.region)
        text.region = region

    def _allocate(
        self, size: int, *, keep: CachedText | None = None, high: bool = False
    ) -> Region | None:
        """A region, finished texts being dropped for it, the least recently used first."""
        while (region := self._regions.allocate(size, high=high)) is None:
            oldest = next((text for text in self._finished if text is not keep), None)
            if oldest is None:
                return None
            self._forget(oldest)
            self._regions.release(oldest.region)
        return region

    def _remember(self, text: CachedText) -> None:
        """Enters the blocks that are not in the index yet."""
        chain = text.hashes[-1] if text.hashes else text.key
        for start in range(len(text.hashes) * BLOCK, len(text.tokens) - BLOCK + 1, BLOCK):
            chain = hash((chain, *text.tokens[start : start + BLOCK]))
            text.hashes.append(chain)
            self._holders.setdefault(chain, {})[text] = None

    def _forget(self, text: CachedText) -> None:
        """Takes a text out of the index; its region is the caller's."""
        self._finished.pop(text, None)
        for chain in text.hashes:
            holders = self._holders.get(chain, {})
            holders.pop(text, None)
            if not holders:
                self._holders.pop(chain, None)
        text.hashes = []

    def _wipe(self, region: Region) -> None:
        for i, shape in self.shapes.items():
            for pool, dim in ((self.keys[i], shape.key_dim), (self.values[i], shape.value_dim)):
                region_view(pool, region, heads=shape.kv_heads, dim=dim).zero_()

    def _copy(self, source: Region, target: Region, n_tokens: int) -> None:
        if not n_tokens:
            return
        for i, shape in self.shapes.items():
            for pool, dim in ((self.keys[i], shape.key_dim), (self.values[i], shape.value_dim)):
                new = region_view(pool, target, heads=shape.kv_heads, dim=dim)
                old = region_view(pool, source, heads=shape.kv_heads, dim=dim)
                new[:, :n_tokens].copy_(old[:, :n_tokens])


def _pool(shape: LayerShape, n_tokens: int, dim: int) -> torch.Tensor:
    """Zeros, which on a CPU take no memory before they are written.

    A batch of rows reads what lies behind a shorter row's end. That is masked, but what was
    never written might be not-a-number, and come through the mask.
    """
    size = n_tokens * shape.kv_heads * dim
    if shape.device.type != "cpu":
        return torch.zeros(size, dtype=shape.dtype, device=shape.device)
    zeros = np.zeros(size * shape.dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(zeros).view(shape.dtype)


def region_view(pool: torch.Tensor, region: Region, *, heads: int, dim: int) -> torch.Tensor:
    """A region of a flat pool as `[heads, size, dim]`."""
    width = heads * dim
    part = pool[region.start * width : (region.start + region.size) * width]
    return part.view(heads, region.size, dim)


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts have in common from their beginning."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
