"""Whether a packed model computes what the model itself computes.

Two sequences go through the pool alone, together, in pieces and from a reused prefix; their
logits must be those of one plain pass over the whole sequence. It takes some ten short passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastchat.engine.kv_cache import CachedText
from fastchat.engine.packed import PackedModel, UnsupportedModelError
from fastchat.engine.plan import Segment

TOLERANCE = {4: 1e-3, 2: 0.1}
"""Largest root mean square of the difference, over that of the logits, by bytes per number."""

_LENGTHS = (41, 26)
_N_STEPS = 3


def check(packed: PackedModel, model: Any, vocab_size: int) -> None:
    """Compares the two ways; costs nothing afterwards.

    Raises:
        UnsupportedModelError: they differ.
    """
    generator = torch.Generator().manual_seed(0)
    texts = [
        torch.randint(min(vocab_size, 1000), (n + _N_STEPS,), generator=generator).tolist()
        for n in _LENGTHS
    ]
    with packed.plain_attention(), torch.inference_mode():
        wanted = [_plain_logits(model, ids, packed.device) for ids in texts]
    one, two = texts
    n_one, n_two = _LENGTHS
    first = _Probe(packed, one)
    seen = [(first.compute(20), wanted[0][19]), (first.compute(n_one - 20), wanted[0][n_one - 1])]
    second = _Probe(packed, two)
    seen.append((second.compute(n_two), wanted[1][n_two - 1]))
    for step in range(_N_STEPS):
        rows = packed.forward(sorted((first.segment(1), second.segment(1)), key=_place))
        order = (0, 1) if first.text.region.start < second.text.region.start else (1, 0)
        for row, i in zip(rows, order, strict=True):
            seen.append((row, wanted[i][_LENGTHS[i] + step]))
        first.text.n_computed += 1
        second.text.n_computed += 1
    third = _Probe(packed, list(one))
    if third.text.n_computed < n_one - 1:
        raise UnsupportedModelError("a prefix is not found again")
    seen.append((third.compute(len(one) - third.text.n_computed), wanted[0][len(one) - 1]))
    for probe in (first, second, third):
        packed.cache.close(probe.text, keep=False)
    worst = max(_difference(got.float(), want.float()) for got, want in seen)
    # Written so that not-a-number fails too.
    if not worst <= TOLERANCE.get(wanted[0].dtype.itemsize, 1e-3):
        raise UnsupportedModelError(f"its logits differ by {worst:.2g} of their size")


class _Probe:
    """One sequence of the check."""

    def __init__(self, packed: PackedModel, token_ids: list[int]) -> None:
        self._packed = packed
        source, n_shared = packed.cache.find(token_ids)
        text = packed.cache.open(token_ids, 1, source=source, n_shared=n_shared)
        if text is None:
            raise UnsupportedModelError("the cache is too small for the check")
        self.text: CachedText = text

    def segment(self, n_tokens: int) -> Segment:
        start = self.text.n_computed
        ids = self.text.tokens[start : start + n_tokens]
        return Segment(region=self.text.region, start=start, token_ids=ids)

    def compute(self, n_tokens: int) -> Tensor:
        """The logits after the next `n_tokens`: (V,)."""
        row = self._packed.forward([self.segment(n_tokens)])[0]
        self.text.n_computed += n_tokens
        return row


def _plain_logits(model: Any, ids: list[int], device: torch.device) -> Tensor:
    """(tokens, V), from one pass in the library's own way."""
    inputs = torch.tensor([ids], device=device)
    return model(input_ids=inputs, use_cache=False).logits[0]


def _place(segment: Segment) -> int:
    return segment.region.start


def _difference(got: Tensor, want: Tensor) -> float:
    return ((got - want).square().mean() / want.var().clamp_min(1e-12)).sqrt().item()
