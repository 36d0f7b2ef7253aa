"""Rotary embeddings in one pass of compiled code, where the library takes a dozen operations.

The library's layers call a function of their own file, `apply_rotary_pos_emb`. Of a model that is
served, each layer's `forward` gets another one in its place, once it has been tried that both
compute the same; other models of the same class keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fastchat.engine import native

NAME = "apply_rotary_pos_emb"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-6}
"""Largest difference between the two ways, for numbers around 1."""

Rotate = Callable[..., tuple[Tensor, Tensor]]


def compile_rotary(model: Any, dtype: torch.dtype) -> int:
    """Has the attention layers of a CPU model rotate in compiled code; returns how many."""
    n_replaced = 0
    for module in model.modules():
        forward = type(module).forward
        if not isinstance(forward, FunctionType) or NAME not in forward.__code__.co_names:
            continue
        plain = forward.__globals__.get(NAME)
        if plain is None or _is_touched(module) or not _is_halves(plain, dtype):
            continue
        names = {**forward.__globals__, NAME: _compiled(plain)}
        own = FunctionType(
            forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
        )
        own.__kwdefaults__ = forward.__kwdefaults__
        module.forward = MethodType(own, module)
        n_replaced += 1
    return n_replaced


def _is_touched(module: nn.Module) -> bool:
    return bool("forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks)


def _compiled(plain: Rotate) -> Rotate:
    """What `plain` computes, in compiled code where that can."""

    def rotated(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any
    ) -> tuple[Tensor, Tensor]:
        if more or named or not (_fits(q, cos, sin) and _fits(k, cos, sin)):
            return plain(q, k, cos, sin, *more, **named)
        return _rotated(q, cos, sin), _rotated(k, cos, sin)

    return rotated


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """One text after another, so that a text's numbers are the same alone and in a batch."""
    if len(x) == 1:
        return native.rotate(x, cosine, sine)
    cosine, sine = cosine.expand(len(x), -1, -1), sine.expand(len(x), -1, -1)
    parts = [native.rotate(x[i : i + 1], cosine[i : i + 1], sine[i : i + 1]) for i in range(len(x))]
    return torch.cat(parts)


def _fits(x: Tensor, cosine: Tensor, sine: Tensor) -> bool:
    """Whether compiled code knows these."""
    return (
        native.can_compute(x.dtype, x.device)
        and x.dtype == cosine.dtype == sine.dtype
        and x.dim() == 4
        and x.shape[3] % 2 == 0
        and x.stride(3) == 1
        and cosine.shape == sine.shape
        and cosine.shape in ((1, x.shape[2], x.shape[3]), (len(x), x.shape[2], x.shape[3]))
    )


def _is_halves(plain: Rotate, dtype: torch.dtype) -> bool:
    """Whether it turns the halves of each head against each other, and is asked as `_compiled`."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    q, k, cosine, sine = (
        numbers(1, 3, 5, 8),
        numbers(1, 2, 5, 8),
        numbers(1, 5, 8),
        numbers(1, 5, 8),
    )
    if not _fits(q, cosine, sine):
        return False
    try:
        with torch.inference_mode():
            wanted = plain(q, k, cosine, sine)
            return len(wanted) == 2 and all(
                one.shape == x.shape
                and one.dtype == x.dtype
                and float((one.float() - native.rotate(x, cosine, sine).float()).abs().max())
                <= TOLERANCE[dtype] * float(one.abs().max())
                for x, one in zip((q, k), wanted, strict=True)
            )
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
