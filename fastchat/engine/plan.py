"""What one packed step needs to know, worked out once and used by all layers.

Where the new keys and values go, which tokens attend in one call and what each may see. Single
tokens of neighbouring regions make a run; longer pieces of one sequence are chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastchat.engine.kv_cache import KVCache, LayerShape, Region

CALL_BYTES = 128 * 1024
"""What could be read while one attention call is set up: padding up to here is the cheaper way.

About 15 us at 8 GB/s (one core of an EPYC 9004).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Tokens of one sequence that one step computes."""

    region: Region
    start: int
    """How many tokens of the sequence are in the cache already."""
    token_ids: Sequence[int]
    wants_all: bool = False
    """Logits after each of the tokens, not only after the last."""
    wants_last: bool = True
    adapter: int | None = None
    """Place of the adapter that computes it; None is the base."""
    pictured: tuple[Sequence[int], Tensor] | None = None
    """Which of its tokens stand for pictures, and (tokens, width) the embeddings of these."""
    positions: Tensor | None = None
    """(3, tokens); None where a token's position is its place."""
    blocks: Sequence[tuple[int, int]] = ()
    """Places from the first to behind the last of tokens that see each other, later ones too."""


class Run:
    """Single tokens of sequences in regions of one size at equal distances."""

    __slots__ = ("end", "first", "high", "lengths", "low", "mask", "region", "spacing")

    def __init__(self, first: int, region: Region, length: int, low: int) -> None:
        self.first = first
        self.end = first + 1
        self.region = region
        self.spacing = region.size
        """From one region's start to the next one's."""
        self.lengths = [length]
        """Keys each row may see, from its region's start."""
        self.low = low
        """Keys before this one are outside every row's window."""
        self.high = length
        self.mask: Tensor | None = None
        """(rows, 1, 1, keys) to add; None where every row sees all keys of the view."""

    def fits(self, region: Region, length: int, low: int, *, slack: int) -> bool:
        """Whether a row can join, reading at most `slack` keys more than alone."""
        last = self.region.start + (len(self.lengths) - 1) * self.spacing
        distance = region.start - last
        if region.size != self.region.size or distance <= 0:
            return False
        if len(self.lengths) > 1 and distance != self.spacing:
            return False
        n, new_low, new_high = len(self.lengths), min(low, self.low), max(length, self.high)
        more = (n + 1) * (new_high - new_low) - n * (self.high - self.low) - (length - low)
        return more <= slack

    def join(self, region: Region, length: int, low: int) -> None:
        if len(self.lengths) == 1:
            self.spacing = region.start - self.region.start
        self.end += 1
        self.lengths.append(length)
        self.low, self.high = min(low, self.low), max(length, self.high)

    def view(self, pool: Tensor, heads: int, dim: int) -> Tensor:
        """(rows, heads, keys, dim)"""
        return pool.as_strided(
            (len(self.lengths), heads, self.high - self.low, dim),
            (self.spacing * heads * dim, self.region.size * dim, dim, 1),
            self.region.start * heads * dim + self.low * dim,
        )

    def set_mask(self, window: int | None, dtype: torch.dtype, device: torch.device) -> None:
        places = np.arange(self.low, self.high)
        lengths = np.asarray(self.lengths)[:, None]
        visible = places < lengths
        if window is not None:
            visible &= places >= lengths - window
        if not visible.all():
            mask = np.where(visible, np.float32(0), np.float32(-np.inf))[:, None, None, :]
            self.mask = torch.from_numpy(mask).to(device=device, dtype=dtype)


class Chunk:
    """Neighbouring tokens of one sequence."""

    __slots__ = (
        "_blocks",
        "_device",
        "end",
        "first",
        "high",
        "is_causal",
        "low",
        "mask",
        "region",
        "window",
    )

    def __init__(
        self, first: int, segment: Segment, window: int | None, *, device: torch.device
    ) -> None:
        n, start = len(segment.token_ids), segment.start
        self.first, self.end = first, first + n
        self.region = segment.region
        self.low = 0 if window is None else max(0, start + 1 - window)
        self.high = start + n
        self.window = window
        self._device = device
        self._blocks = segment.blocks
        is_short = start == 0 and (window is None or n <= window)
        self.is_causal = is_short and not self._blocks
        self.mask = None if self.is_causal else self._visible()
        """(tokens, keys), true where a token may look."""

    def additive_mask(self, dtype: torch.dtype) -> Tensor:
        """(tokens, keys): zero where a token may look, minus infinity elsewhere."""
        visible = self._visible() if self.mask is None else self.mask
        zeros = torch.zeros(visible.shape, dtype=dtype, device=self._device)
        return zeros.masked_fill_(~visible, -torch.inf)

    def _visible(self) -> Tensor:
        n = self.end - self.first
        at = torch.arange(self.high - n, self.high, device=self._device).unsqueeze(1)
        keys = torch.arange(self.low, self.high, device=self._device)
        last = at.clone()
        for start, end in self._blocks:
            last[start:end] = at[0] + end - 1
        visible = keys <= last
        return visible if self.window is None else visible & (keys > at - self.window)

    def view(self, pool: Tensor, heads: int, dim: int) -> Tensor:
        """(1, heads, keys, dim)"""
        return pool.as_strided(
            (1, heads, self.high - self.low, dim),
            (0, self.region.size * dim, dim, 1),
            self.region.start * heads * dim + self.low * dim,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where tokens stand, as `native.py` reads it: (tokens, 5) of int64."""

    all: Tensor
    """Of every token, padding included."""
    single: Tensor
    """Of those that are alone in their segment."""
    longest: int
    """Keys that one of these sees, at most."""


class Plan:
    """Where the tokens of one step stand, what they see, and whose logits are wanted."""

    def __init__(
        self,
        segments: Sequence[Segment],
        cache: KVCache,
        filled: Callable[[int], int],
        *,
        device: torch.device,
        n_axes: int = 1,
    ) -> None:
        """
        Args:
            segments: what is computed.
            cache: where keys and values go.
            filled: how many rows to compute in place of so many.
            device: of the model.
            n_axes: 3 where positions have three directions.
        """
        self._segments = segments
        token_ids: list[int] = []
        places: list[tuple[int, int, int]] = []
        positions: list[int] = []
        wanted: list[int] = []
        for segment in segments:
            first, n = len(token_ids), len(segment.token_ids)
            token_ids += segment.token_ids
            positions += range(segment.start, segment.start + n)
            places.append((segment.region.start, segment.region.size, n))
            if segment.wants_all:
                wanted += range(first, first + n)
            elif segment.wants_last:
                wanted.append(first + n - 1)
        self.n_padding = filled(len(token_ids)) - len(token_ids)
        if self.n_padding:
            token_ids += [0] * self.n_padding
            positions += range(self.n_padding)
            places.append((cache.scratch, self.n_padding, self.n_padding))
        self.owners: list[int | None] = []
        """By row, the place of its adapter."""
        for segment in segments:
            self.owners += [segment.adapter] * len(segment.token_ids)
        self.owners += [None] * self.n_padding
        self.n_wanted = len(wanted)
        wanted += [len(token_ids) - 1] * (filled(len(wanted)) - len(wanted))
        starts, sizes, counts = np.array(places, dtype=np.int64).T
        self._is_single = np.repeat(counts == 1, counts)
        self._is_single[len(token_ids) - self.n_padding :] = False
        self._sizes = np.repeat(sizes, counts)
        self._starts = np.repeat(starts, counts)
        self._positions = np.array(positions, dtype=np.int64)
        self.token_ids = torch.tensor([token_ids], device=device)
        self.positions = torch.from_numpy(self._positions).to(device).unsqueeze(0)
        """(1, T), or (3, 1, T)"""
        if n_axes > 1:
            self.positions = self._on_axes(n_axes).to(device).unsqueeze(1)
        self.pictured: list[int] = []
        """Rows whose embeddings are those of pictures."""
        self.embeddings: list[Tensor] = []
        """Of these rows, in order."""
        first = 0
        for segment in segments:
            if segment.pictured is not None:
                self.pictured += [first + i for i in segment.pictured[0]]
                self.embeddings.append(segment.pictured[1])
            first += len(segment.token_ids)
        self.wanted = torch.tensor(wanted, dtype=torch.long, device=device)
        self._write_rows: dict[tuple[int, torch.device], Tensor] = {}
        self._places: dict[int | None, Places] = {}
        self._runs: dict[tuple[int | None, LayerShape], list[Run]] = {}
        self._chunks: dict[tuple[int | None, torch.device], list[Chunk]] = {}

    def _on_axes(self, n_axes: int) -> Tensor:
        """(axes, T): plain places on every axis, but where a segment says otherwise."""
        positions = torch.from_numpy(self._positions).repeat(n_axes, 1)
        first = 0
        for segment in self._segments:
            end = first + len(segment.token_ids)
            if segment.positions is not None:
                positions[:, first:end] = segment.positions
            first = end
        return positions

    def places(self, window: int | None) -> Places:
        """Where the tokens stand, for compiled code."""
        if window not in self._places:
            at = self._positions
            low = np.zeros_like(at) if window is None else np.maximum(0, at + 1 - window)
            table = np.stack([np.arange(len(at)), self._starts, self._sizes, at, low], axis=1)
            single = table[self._is_single]
            self._places[window] = Places(
                all=torch.from_numpy(table),
                single=torch.from_numpy(single),
                longest=int((single[:, 3] + 1 - single[:, 4]).max(initial=0)),
            )
        return self._places[window]

    def write_rows(self, shape: LayerShape) -> Tensor:
        """Rows of the pool, seen as (tokens x heads, dim), that the new tokens are written to."""
        key = (shape.kv_heads, shape.device)
        if key not in self._write_rows:
            first = self._starts * shape.kv_heads + self._positions
            rows = first[:, None] + self._sizes[:, None] * np.arange(shape.kv_heads)
            self._write_rows[key] = torch.from_numpy(rows.reshape(-1)).to(shape.device)
        return self._write_rows[key]

    def runs(self, window: int | None, shape: LayerShape) -> list[Run]:
        """The single tokens, grouped."""
        if (window, shape) not in self._runs:
            self._runs[window, shape] = self._find_runs(window, shape)
        return self._runs[window, shape]

    def chunks(self, window: int | None, device: torch.device) -> list[Chunk]:
        """The longer segments."""
        if (window, device) not in self._chunks:
            chunks, first = [], 0
            for segment in self._segments:
                if len(segment.token_ids) > 1:
                    chunks.append(Chunk(first, segment, window, device=device))
                first += len(segment.token_ids)
            self._chunks[window, device] = chunks
        return self._chunks[window, device]

    def _find_runs(self, window: int | None, shape: LayerShape) -> list[Run]:
        slack = CALL_BYTES // shape.token_bytes
        runs: list[Run] = []
        first = 0
        for segment in self._segments:
            if len(segment.token_ids) == 1:
                length = segment.start + 1
                low = 0 if window is None else max(0, length - window)
                last = runs[-1] if runs and runs[-1].end == first else None
                if last is not None and last.fits(segment.region, length, low, slack=slack):
                    last.join(segment.region, length, low)
                else:
                    runs.append(Run(first, segment.region, length, low))
            first += len(segment.token_ids)
        for run in runs:
            run.set_mask(window, shape.dtype, shape.device)
        return runs
