"""What adapters add to one product, by compiled code: `Delta` where `native.py` has it.

Each row is computed alone, or with neighbours of the same owner, so a row's numbers come from its
own adapter only, and nothing is prepared for a step but the list of owners.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastchat.engine import native
from fastchat.engine.delta import resized
from fastchat.engine.owned_rows import OwnedRows
from fastchat.model.adapters import LowRank


class CompiledDelta:
    """What adapters add to one product: that of a layer, or the one that siblings share."""

    def __init__(
        self,
        in_features: int,
        sizes: Sequence[int],
        *,
        rows: Callable[[Tensor], OwnedRows | None],
        dtype: torch.dtype,
    ) -> None:
        """
        Args:
            in_features: of the product.
            sizes: outputs of each of the S layers in it.
            rows: who owns the rows of an input; None: nobody but the base.
            dtype: of the product, one that `native.can_compute`.
        """
        self.joined: object = None
        """The siblings' product, where it is one."""
        self._rows = rows
        self._firsts = [sum(sizes[:i]) for i in range(len(sizes))]
        self._sizes = torch.tensor(sizes, dtype=torch.int64)
        self._a = torch.zeros(0, len(sizes), 0, in_features, dtype=dtype)
        """(P, S, R, in)"""
        self._b = torch.zeros(0, 0, sum(sizes), dtype=dtype)
        """(P, R, out), with the scale in it"""

    def resize(self, n_places: int, width: int) -> None:
        """Makes room for so many places of this width, keeping what is there."""
        _, n_layers, _, n_in = self._a.shape
        self._a = resized(self._a, n_places, n_layers, width, n_in)
        self._b = resized(self._b, n_places, width, self._b.shape[2])

    def put(self, index: int, place: int, layer: LowRank) -> None:
        """Sets an adapter's pair of one layer."""
        rank, first = len(layer.a), self._firsts[index]
        b = layer.b.float() * layer.scale
        self._a[place, index, :rank] = layer.a.to(self._a)
        self._b[place, :rank, first : first + len(b)] = b.t().to(self._b)

    def wipe(self, place: int) -> None:
        """Makes a place one that adds nothing."""
        self._a[place] = 0
        self._b[place] = 0

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """`y` with the products of `x` added. x: (..., in); y: (..., sum of sizes), written to."""
        rows = self._rows(x)
        if rows is None:
            return y
        y = y.contiguous()
        flat = y.view(rows.n, -1)
        own = flat if y.dtype == self._b.dtype else torch.zeros_like(flat, dtype=self._b.dtype)
        native.add_low_rank(
            *(x.reshape(rows.n, -1).to(own).contiguous(), own),
            *(self._a, self._b, rows.owners, rows.ranks, self._sizes),
        )
        if own is not flat:
            flat += own
        return y
