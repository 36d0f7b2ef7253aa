"""What adapters add to one product: `y += B (A x)`, each row by its own adapter's A and B.

In torch operations, for devices and types that compiled code (`compiled_delta.py`) does not know.

`A x` is one product for all adapters that a span of rows uses. Of the results each row's own are
taken, and the rows of B weighted by them are summed by `embedding_bag`: it reads what is needed
and nothing of anybody else's, so what one adapter holds cannot reach another's rows, and it is
quicker than products of so few columns. Measured beside masked products on one core of an EPYC
(torch 2.13, a busy machine), three adapters of rank 8, B and its sum for two layers of 512 x 2048:

    us         8 rows       98 rows
    f32      70 for 105   248 for 342
    bf16     54 for 166   222 for 248
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastchat.engine.owned_rows import Bags, Layout, OwnedRows, Span
from fastchat.model.adapters import LowRank

WIDE = 16
"""Ranks from which on many rows of one owner are computed as plain products.

Their flops begin to count: 98 rows of rank 16 take 330 us in place of the 530 of the sums, and of
rank 8 310 in place of 250 (as above, f32).
"""

_SUM = 0
"""The mode of `torch.embedding_bag`."""


class Delta:
    """What adapters add to one product: that of a layer, or the one that siblings share."""

    def __init__(
        self,
        in_features: int,
        sizes: Sequence[int],
        *,
        rows: Callable[[Tensor], OwnedRows | None],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """
        Args:
            in_features: of the product.
            sizes: outputs of each of the S layers in it.
            rows: who owns the rows of an input; None: nobody but the base.
            dtype: of the product.
            device: of the model.
        """
        self.joined: object = None
        """The siblings' product, where it is one."""
        self._layout = Layout(sizes)
        self._rows = rows
        n_chunks, width = len(self._layout.layers), self._layout.width
        # A CPU's kernels for 16 bits take 11 us for the smallest product, those for 32 take 2.
        type_of_a = torch.float32 if device.type == "cpu" else dtype
        self._is_alike = type_of_a == dtype
        self._a = torch.zeros(in_features, 0, len(sizes), 0, dtype=type_of_a, device=device)
        """(in, P, S, R): this way round the product of few rows is a third quicker"""
        self._b = torch.zeros(n_chunks, 0, 0, width, dtype=dtype, device=device)
        """(C, P, R, width), with the scale in it"""
        self._see()

    def resize(self, n_places: int, width: int) -> None:
        """Makes room for so many places of this width, keeping what is there."""
        n_in, _, n_layers, _ = self._a.shape
        n_chunks, _, _, n_out = self._b.shape
        self._a = resized(self._a, n_in, n_places, n_layers, width)
        self._b = resized(self._b, n_chunks, n_places, width, n_out)
        self._see()

    def put(self, index: int, place: int, layer: LowRank) -> None:
        """Sets an adapter's pair of one layer."""
        rank, layout = len(layer.a), self._layout
        first, n_chunks = layout.firsts[index], layout.sizes[index] // layout.width
        b = (layer.b.float() * layer.scale).t().reshape(rank, n_chunks, layout.width)
        self._a[:, place, index, :rank] = layer.a.t().to(self._a)
        self._b[first : first + n_chunks, place, :rank] = b.transpose(0, 1).to(self._b)

    def wipe(self, place: int) -> None:
        """Makes a place one that adds nothing."""
        self._a[:, place] = 0
        self._b[:, place] = 0

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """`y` with the products of `x` added. x: (..., in); y: (..., sum of sizes), written to."""
        rows = self._rows(x)
        if rows is None or not rows.spans:
            return y
        y = y.contiguous()
        flat = x.reshape(rows.n, -1)
        if rows.is_whole and rows.spans[0].owner is None:
            span = rows.spans[0]
            sums = self._sums(self._products(flat, span), span.bags(self._layout))
            y.view(sums.shape).add_(sums)
            return y
        chunks = y.view(rows.n, -1, self._layout.width)
        for span in rows.spans:
            products = self._products(flat[span.first : span.end], span)
            part = chunks[span.first : span.end]
            if span.owner is not None and self._a.shape[3] >= WIDE:
                self._add_product(products, span.owner, part)
            else:
                part.add_(self._sums(products, span.bags(self._layout)).view(part.shape))
        return y

    def _sums(self, products: Tensor, bags: Bags) -> Tensor:
        """(T x C, width), from the results of A."""
        weights = products.view(-1)
        if bags.taken is not None:
            weights = products.view(-1, bags.unit).index_select(0, bags.taken).view(-1)
        if not self._is_alike:
            weights = weights.to(self._b.dtype)
        return torch.embedding_bag(
            self._flat_b, bags.indices, bags.offsets, False, _SUM, False, weights
        )[0]

    def _add_product(self, products: Tensor, place: int, y: Tensor) -> None:
        """Adds an adapter's B. products: (T, S x R); y: (T, C, width)."""
        n_layers, n_chunks = len(self._layout.sizes), y.shape[1]
        own = products.to(self._b.dtype).view(len(products), n_layers, -1).transpose(0, 1)
        if n_chunks != n_layers:
            own = own[torch.from_numpy(self._layout.layers).to(own.device)]
        y.transpose(0, 1).baddbmm_(own, self._b[:, place])

    def _products(self, x: Tensor, span: Span) -> Tensor:
        """`A x` of the span's adapters side by side, each (S, R) wide. x: (T, in)."""
        if not self._is_alike:
            x = x.to(self._a.dtype)
        if span.owner is not None:
            # So few columns are a third quicker as rows, once there are many of the others.
            own = self._a[:, span.owner].flatten(1)
            return torch.mm(own.t(), x.t()).t().contiguous()
        if span.places is None:
            return torch.mm(x, self._flat_a)
        parts = [torch.mm(x, self._a[:, place].flatten(1)) for place in span.places]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _see(self) -> None:
        self._flat_a = self._a.flatten(1)
        """(in, P x S x R)"""
        self._flat_b = self._b.flatten(0, 2)
        """(C x P x R, width)"""


def resized(old: Tensor, *shape: int) -> Tensor:
    """A tensor of this shape, zeros where there was nothing."""
    if tuple(old.shape) == shape:
        return old
    new = old.new_zeros(*shape)
    common = tuple(slice(0, min(a, b)) for a, b in zip(old.shape, shape, strict=True))
    new[common] = old[common]
    return new
