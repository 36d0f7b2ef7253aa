"""Whether a packed model computes what the model itself computes.

Two sequences go through the pool alone, together, in pieces and from a reused prefix; their
logits must be those of one plain pass over the whole sequence. It takes some ten short passes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastchat.engine.kv_cache import CachedText
from fastchat.engine.packed import PackedModel, UnsupportedModelError
from fastchat.engine.plan import Segment
from fastchat.engine.vision import SeenPrompt, VisionTower, placed
from fastchat.errors import ModelError, UsageError

if TYPE_CHECKING:
    from fastchat.model.load import LoadedModel

TOLERANCE = {4: 1e-3, 2: 0.1}
"""Largest root mean square of the difference, over that of the logits, by bytes per number."""

_PICTURES = ((64, 48), (40, 80))
"""Width and height."""
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


def check_pictures(packed: PackedModel, loaded: LoadedModel) -> None:
    """Compares a prompt with two pictures, in two pieces, with the library's own pass.

    Where they differ it is tried whether each token of a picture sees all of it, which the
    processor then notes.

    Raises:
        UnsupportedModelError: they differ, or one of the two cannot be computed.
    """
    from PIL import Image

    processor = loaded.processor
    assert processor is not None
    noise = np.random.default_rng(0)
    images = [
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for width, height in _PICTURES
    ]
    text = f"{processor.mark} one {processor.mark} two"
    try:
        whole = {k: v.to(packed.device) for k, v in processor.whole(text, images).items()}
        with packed.plain_attention(), torch.inference_mode():
            wanted = loaded.model(**whole, use_cache=False).logits[0]
        read = [(bytes([i]) * 32, processor.prepare(image)) for i, image in enumerate(images)]
        prompt = placed(loaded, text, read, is_complete=False)
        seen = VisionTower(loaded.model, sees_whole=False).see(prompt)
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError, IndexError) as error:
        raise UnsupportedModelError(f"a prompt with pictures fails: {error}") from error
    except (ModelError, UsageError) as error:
        raise UnsupportedModelError(error.message) from error
    if whole["input_ids"][0].tolist() != prompt.ids:
        raise UnsupportedModelError("its processor writes other tokens")
    tolerance = TOLERANCE.get(wanted.dtype.itemsize, 1e-3)
    difference = _difference(_pictured_logits(packed, seen), wanted.float())
    processor.is_seen_whole = not difference <= tolerance
    if processor.is_seen_whole:
        seen = replace(seen, blocks=prompt.blocks)
        difference = _difference(_pictured_logits(packed, seen), wanted.float())
    if not difference <= tolerance:
        raise UnsupportedModelError(f"its logits differ by {difference:.2g} of their size")


def _pictured_logits(packed: PackedModel, seen: SeenPrompt) -> Tensor:
    """(tokens, V) of a prompt with pictures, computed in two pieces."""
    prompt = seen.prompt
    cached = packed.cache.open(prompt.text_keys, 1, source=None, n_shared=0)
    if cached is None:
        raise UnsupportedModelError("the cache is too small for two pictures")
    middle = seen.blocks[0][1] if seen.blocks else prompt.places[len(prompt.places) // 3]
    got: list[Tensor] = []
    for start, end in ((0, middle), (middle, len(prompt.ids))):
        segment = Segment(
            region=cached.region,
            start=start,
            token_ids=prompt.ids[start:end],
            wants_all=True,
            pictured=seen.part(start, end),
            positions=seen.positions(start, end),
            blocks=seen.blocks_within(start, end),
        )
        got.append(packed.forward([segment]))
    packed.cache.close(cached, keep=False)
    return torch.cat(got).float()


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
