"""Which rows of a pass belong to which adapter, and where each row's ranks stand.

A pass is cut into spans. Of a long run of rows with one owner, only that adapter's products are
computed, and nothing where the owner is the base. What lies between, as the next tokens of many
sequences do, is one span of many owners, computed by all their adapters at once.

Dimensions: T rows of a span, P places of adapters, R ranks a place has room for, S layers of a
product, C chunks of its outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LONG = 32
"""Rows of one owner, from which on they are a span of their own."""

MOST_IDLE = 4
"""Adapters loaded for each that a span uses, up to which one product of all is the cheaper."""

WORTH = 0.75
"""Part of a span's rows that must be left, at most, for the base's before and after to be cut."""

BASE = -1

Ints = NDArray[np.int64]


class Layout:
    """The outputs of a product of S layers, as C chunks of one width, each of one layer."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """sizes: outputs of each layer."""
        self.sizes = tuple(sizes)
        self.width = math.gcd(*sizes)
        self.layers: Ints = np.repeat(np.arange(len(sizes)), [size // self.width for size in sizes])
        """(C,), the layer of each chunk."""
        self.firsts = [int(i) for i in np.searchsorted(self.layers, np.arange(len(sizes)))]
        """By layer, its first chunk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What is loaded."""

    ranks: tuple[int, ...]
    """By place; 0 where nobody is."""
    width: int
    """R"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bags:
    """For each row and chunk of a span: which of B's rows are summed, and by which weights."""

    indices: Tensor
    """int32, rows of B seen as (C x P x R, width), those of one bag after those of another."""
    offsets: Tensor
    """(T x C,) int32, where each bag begins."""
    taken: Tensor | None
    """Where the weights stand among the products of A, seen as (-1, unit); None: in order."""
    unit: int
    """Weights that stand side by side."""


class Span:
    """Neighbouring rows, some of which use adapters."""

    def __init__(self, first: int, ids: Ints, places: Places, *, device: torch.device) -> None:
        """
        Args:
            first: row of the pass.
            ids: (T,) by row, the place of its adapter, or BASE.
            places: what is loaded.
            device: of the model.
        """
        self.first, self.end = first, first + len(ids)
        self.ids = ids
        self._all = places
        self._device = device
        used = [int(i) for i in np.unique(ids) if i != BASE]
        n_places = len(places.ranks)
        self.owner = used[0] if len(ids) >= LONG and (ids == used[0]).all() else None
        """Of all rows, where they are many."""
        self.places: list[int] | None = used
        """Whose products are computed, side by side; None: everybody's."""
        if len(used) > 1 and n_places <= MOST_IDLE * len(used):
            self.places = None
        self._bags: dict[tuple[int, ...], Bags] = {}

    def bags(self, layout: Layout) -> Bags:
        """The sums that this span needs of one kind of product."""
        if layout.sizes not in self._bags:
            self._bags[layout.sizes] = self._make(layout)
        return self._bags[layout.sizes]

    def _make(self, layout: Layout) -> Bags:
        n_places, width = len(self._all.ranks), self._all.width
        n_layers, n_chunks = len(layout.sizes), len(layout.layers)
        columns = np.arange(n_places) if self.places is None else np.zeros(n_places, np.int64)
        if self.places is not None:
            columns[self.places] = np.arange(len(self.places))
        n_columns = n_places if self.places is None else len(self.places)
        rank = np.arange(width)
        own = np.where(self.ids == BASE, 0, np.array(self._all.ranks)[self.ids])
        is_used = np.broadcast_to(
            (rank < own[:, None])[:, None, :], (len(self.ids), n_chunks, width)
        )
        rows_of_b = np.arange(n_chunks) * n_places + self.ids[:, None]  # (T, C)
        rows_of_b = rows_of_b[:, :, None] * width + rank
        counts = is_used.sum(axis=2).reshape(-1)
        taken, is_full = None, bool(np.isin(own, (0, width)).all())
        if n_columns > 1 or n_chunks != n_layers or not (own == width).all():
            blocks = np.arange(len(self.ids)) * n_columns + columns[self.ids]
            blocks = blocks[:, None] * n_layers + layout.layers  # (T, C)
            places = blocks[own > 0] if is_full else (blocks[:, :, None] * width + rank)[is_used]
            taken = torch.from_numpy(places.reshape(-1)).to(self._device)
        return Bags(
            indices=self._int32(rows_of_b[is_used]),
            offsets=self._int32(np.cumsum(counts) - counts),
            taken=taken,
            unit=width if is_full else 1,
        )

    def _int32(self, values: Ints) -> Tensor:
        return torch.from_numpy(values.astype(np.int32)).to(self._device)


class OwnedRows:
    """The rows of a pass, by owner."""

    def __init__(self, ids: Sequence[int], places: Places, *, device: torch.device) -> None:
        """
        Args:
            ids: by row, the place of its adapter, or BASE.
            places: what is loaded.
            device: of the model.
        """
        self.n = len(ids)
        self.owners = torch.tensor(ids, dtype=torch.int64)
        """(T,), on the CPU."""
        self._places = places
        self._device = device

    @cached_property
    def ranks(self) -> Tensor:
        """(P,) of the adapters, on the CPU."""
        return torch.tensor(self._places.ranks, dtype=torch.int64)

    @cached_property
    def spans(self) -> list[Span]:
        """Those with work to do."""
        return [
            Span(first, own, self._places, device=self._device)
            for first, own in _cut(self.owners.numpy())
        ]

    @property
    def is_whole(self) -> bool:
        """Whether one span is all there is, as in steps without prompts."""
        return len(self.spans) == 1 and len(self.spans[0].ids) == self.n


def _cut(ids: Ints) -> list[tuple[int, Ints]]:
    """(first row, owners) of each span that is not the base's alone."""
    changes = [0, *(int(i) + 1 for i in np.flatnonzero(np.diff(ids))), len(ids)]
    long = [(a, b) for a, b in pairwise(changes) if b - a >= LONG]
    ends = sorted({0, len(ids)}.union(*long))
    found: list[tuple[int, Ints]] = []
    for first, end in pairwise(ends):
        adapted = np.flatnonzero(ids[first:end] != BASE)
        if len(adapted):
            start, stop = first + int(adapted[0]), first + int(adapted[-1]) + 1
            # Leaving a few rows out costs more, in slices of everything, than it saves.
            is_much = (stop - start) <= WORTH * (end - first)
            found.append((start, ids[start:stop]) if is_much else (first, ids[first:end]))
    return found
