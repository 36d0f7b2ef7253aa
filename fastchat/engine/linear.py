"""Linear layers whose weights are laid out once for the CPU kernels that read them.

`torch.nn.functional.linear` on a CPU rearranges a weight at every call, which costs more than
the product itself while there are few rows. oneDNN takes a weight in its own layout. Measured
on one core of an EPYC 9004 (torch 2.13), all products of a 58.7 M model in ms:

    rows            1      4      8     32    128    512
    f32  plain   18.9   27.4   30.4   58.0    168    609
         packed  14.8   10.9   17.0   36.6    131    509
    bf16 plain   15.2   14.8   17.0   27.9     77    264
         packed   7.2    6.0    7.8   19.5     67    254

Four rows are quicker than one or two, and every number of rows gets a kernel of its own, which
takes 0.5 to 4 MB: `filled` is the size a step should be filled up to.

Layers that read the same input, as queries, keys and values do, are one product: 5 % at 8 rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastchat.engine.huge_pages import move_what_is_loaded

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that read one input. What they are given is compared, so a model that uses a
name otherwise is computed rightly, only not quicker."""

FINEST, COARSEST = 4, 32
"""Steps are multiples of four rows up to 64, of 32 rows above 256: 40 sizes for 512 rows."""

LEAST_WEIGHTS = {torch.float32: 2**15, torch.bfloat16: 2**14}
"""A call of oneDNN costs some 12 us; weights smaller than this do not earn that back.

Of 2^15 weights in f32, 8 rows cost the same either way, and 128 half as much.
"""

LARGE = 64 * 2**20
"""Bytes of weights from which large pages are worth asking for."""

_ROWS_HINT = 32
"""Rows the layout is chosen for. Layouts for 8 to 128 measured the same, the one for 1 slow."""


def filled(n_rows: int) -> int:
    """The number of rows to compute in place of `n_rows`."""
    tenth = 1 << max(0, (n_rows - 1).bit_length() - 4)
    multiple = min(COARSEST, max(FINEST, tenth))
    return -(-n_rows // multiple) * multiple


class PackedLinear(nn.Module):
    """A linear layer for inference on the CPU; its weight can no longer be read."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        # No buffer: the opaque layout can be neither moved nor saved.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS_HINT)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")


class _Joined:
    """One product in place of several that read the same input."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        has_bias = linears[0].bias is not None
        self._linear = PackedLinear(
            torch.cat([linear.weight for linear in linears]),
            torch.cat([linear.bias for linear in linears]) if has_bias else None,
        )
        self.sizes = [linear.out_features for linear in linears]
        self.delta: Callable[[Tensor, Tensor], Tensor] | None = None
        """What is added to the product, given input and product (`adapters.py`)."""
        self._input: Tensor | None = None
        self._parts: tuple[Tensor, ...] = ()

    def part(self, x: Tensor, index: int) -> Tensor:
        """What layer `index` makes of `x`; all are computed when the first is asked for."""
        if x is not self._input:
            product = self._linear(x)
            if self.delta is not None:
                product = self.delta(x, product)
            self._parts = product.split(self.sizes, dim=-1)
            self._input = x
        part = self._parts[index]
        if index == len(self.sizes) - 1:
            self._input, self._parts = None, ()
        return part


class JoinedLinear(nn.Module):
    """A layer whose product is a part of one that its siblings share."""

    def __init__(self, joined: _Joined, index: int, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.joined, self.index = joined, index

    def forward(self, x: Tensor) -> Tensor:
        return self.joined.part(x, self.index)


def pack_linears(model: Any) -> int:
    """Replaces the linear layers of a CPU model, and returns how many it replaced.

    Their plain weights are freed unless something else holds them (tied embeddings). Small
    layers stay, and those of other classes, on other devices or in types that the CPU cannot
    multiply. What is loaded moves to large pages, where it is much.
    """
    if not torch.backends.mkldnn.is_available():
        return 0
    least = dict(LEAST_WEIGHTS)
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        del least[torch.bfloat16]
    n_packed, n_bytes = 0, _weight_bytes(model)
    with torch.inference_mode():
        for module in list(model.modules()):
            for names in SIBLINGS:
                n_packed += _join(module, names, least)
            for name, child in list(module.named_children()):
                weight = _plain_weight(child)
                if weight is None or weight.device.type != "cpu" or weight.dtype not in least:
                    continue
                if weight.numel() >= least[weight.dtype]:
                    setattr(module, name, PackedLinear(weight, child.bias))
                    n_packed += 1
    if n_packed and n_bytes >= LARGE:
        move_what_is_loaded()
    return n_packed


def _weight_bytes(model: Any) -> int:
    return sum(p.numel() * p.itemsize for p in model.parameters())


def _join(module: nn.Module, names: Sequence[str], least: Mapping[torch.dtype, int]) -> int:
    """Replaces the layers of these names by one product, if they are alike; how many it did."""
    linears: list[nn.Linear] = []
    for name in names:
        child = getattr(module, name, None)
        if type(child) is not nn.Linear or _plain_weight(child) is None:
            return 0
        linears.append(child)
    if len({(x.in_features, x.weight.dtype, x.weight.device, x.bias is None) for x in linears}) > 1:
        return 0
    weight = linears[0].weight
    n_weights = sum(linear.weight.numel() for linear in linears)
    if weight.device.type != "cpu" or n_weights < least.get(weight.dtype, n_weights + 1):
        return 0
    joined = _Joined(linears)
    for i, (name, linear) in enumerate(zip(names, linears, strict=True)):
        setattr(module, name, JoinedLinear(joined, i, linear))
    return len(names)


def _plain_weight(module: nn.Module) -> Tensor | None:
    """The weight as (out, in) of a layer that does nothing but multiply by it, or None."""
    from transformers.pytorch_utils import Conv1D

    if module._forward_hooks or module._forward_pre_hooks:
        return None
    if type(module) is nn.Linear:
        return module.weight
    if type(module) is Conv1D:
        return module.weight.t().contiguous()
    return None
