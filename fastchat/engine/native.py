"""What `native.c` computes on a CPU: attention of single tokens, and much that is small.

PyTorch has no kernel for many sequences of different lengths with one query each. Its batched
products, which the engine does without the compiled code, read keys and values at a third of the
speed. Milliseconds of a layer's attention on one core of an EPYC 9004 (torch 2.13), at a length
of 130 with 8 heads of 64, at 1000 with 32 heads of 128:

    rows             32 x 130   8 x 130   4 x 1000
    f32   products        1.3      0.36        5.8
          native          0.76     0.15        3.6
    bf16  products        1.3      0.31       11.6
          native          0.79     0.12        2.9

Products of adapters, each row by its own: without the compiled code `delta.py` takes four times as
long. Of rank 8, three adapters and the base by turns, those of a whole layer of 512 x 2048 in
f32 take 40 us for 8 rows and 133 us for 32, and 254 us for 98 rows of one adapter.

Norms and rotary embeddings take one pass in place of eight and twelve operations, which the models'
layers get by `norms.py` and `rotary.py`.

The compiled code is made when the package is installed (`setup.py`) where there is a C compiler.
Each row is computed alone, so that its numbers do not depend on who shares the step.
"""

from __future__ import annotations

import ctypes
import logging
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastchat.engine.kv_cache import LayerShape

logger = logging.getLogger(__name__)

TYPES = (torch.float32, torch.bfloat16)

FEW = 2**16
"""Numbers that are written, weighted or rotated in some 20 us."""


class _Attention(ctypes.Structure):
    """`attention` of native.c."""

    _fields_ = [
        ("query", ctypes.c_void_p),
        ("query_token", ctypes.c_int64),
        ("query_head", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "out", "places", "sinks")),
        *(
            (name, ctypes.c_int64)
            for name in (
                *("n", "heads", "kv_heads", "key_dim", "value_dim"),
                *("longest", "threads"),
            )
        ),
        ("scale", ctypes.c_float),
        ("cap", ctypes.c_float),
    ]


class _LowRank(ctypes.Structure):
    """`low_rank` of native.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "y", "a", "b", "owners", "ranks", "sizes")),
        *(
            (name, ctypes.c_int64)
            for name in ("x_row", "y_row", "n", "n_in", "n_out", "width", "layers", "threads")
        ),
    ]


class _Norm(ctypes.Structure):
    """`norm` of native.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "out", "weight")),
        *((name, ctypes.c_int64) for name in ("rows", "width", "threads")),
        ("epsilon", ctypes.c_float),
        ("rounds_first", ctypes.c_int32),
    ]


class _Rotation(ctypes.Structure):
    """`rotation` of native.c."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("x_token", "x_head")),
        *((name, ctypes.c_void_p) for name in ("cosine", "sine", "out")),
        *((name, ctypes.c_int64) for name in ("tokens", "heads", "dim", "threads")),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """The compiled code, called in two ways."""

    free: Any
    """Other threads of Python run meanwhile."""
    held: Any
    """They do not: one that got its turn would keep it for longer than a short call takes."""

    def of(self, n_numbers: int) -> Any:
        """How to call for so many numbers."""
        return self.held if n_numbers < FEW else self.free


@cache
def library() -> Library | None:
    """The compiled code, or None where it was not built."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_native{suffix}")
        if path.exists():
            break
    else:
        logger.info("attention=torch (the package was installed without a C compiler)")
        return None
    try:
        return Library(
            free=_declared(ctypes.CDLL(str(path))), held=_declared(ctypes.PyDLL(str(path)))
        )
    except OSError as error:  # of another machine, or without its OpenMP
        logger.warning("attention=torch: %s cannot be loaded: %s", path.name, error)
        return None


def _declared(code: Any) -> Any:
    """The same, with what its functions take and give."""
    for name, structure, result in (
        ("attend", _Attention, ctypes.c_int),
        ("add_low_rank", _LowRank, ctypes.c_int),
        ("norm", _Norm, None),
        ("rotate", _Rotation, None),
    ):
        function = getattr(code, f"fastchat_{name}")
        function.argtypes = [ctypes.POINTER(structure), ctypes.c_int]
        function.restype = result
    integers = [ctypes.c_int64] * 2
    code.fastchat_write.argtypes = [
        *(ctypes.c_void_p, *integers, ctypes.c_void_p, ctypes.c_void_p),
        *(ctypes.c_int64, *integers),
    ]
    code.fastchat_write.restype = None
    return code


def can_compute(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the compiled code is there and knows this type and device."""
    return device.type == "cpu" and dtype in TYPES and library() is not None


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    places: Tensor,
    out: Tensor,
    shape: LayerShape,
    *,
    longest: int,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> None:
    """Writes each place's attention over the keys of its region, from its first key to itself.

    Args:
        query: (1, H, T, D), the numbers of a head side by side.
        keys, values: the pools of the layer, flat.
        places: (n, 5) of int64, of a token: its row in the step, start and size of its region, its
            place, the first key it sees.
        out: (T, H, D of the values), contiguous; rows of other tokens are left as they are.
        shape: of the layer; its device and type are those that `can_compute` took.
        longest: keys that a place sees at most.
        scale: of the scores.
        softcap: scores go through `softcap * tanh(score / softcap)`.
        sinks: (H,), a score per head whose share of the weight goes nowhere.

    Raises:
        MemoryError: there is no room for the scores.
    """
    if query.stride(3) != 1:
        query = query.contiguous()
    if sinks is not None:
        sinks = sinks.detach().to(torch.float32).contiguous()
    asked = _Attention(
        query.data_ptr(),
        query.stride(2),
        query.stride(1),
        keys.data_ptr(),
        values.data_ptr(),
        out.data_ptr(),
        places.data_ptr(),
        None if sinks is None else sinks.data_ptr(),
        len(places),
        query.shape[1],
        shape.kv_heads,
        shape.key_dim,
        shape.value_dim,
        longest,
        torch.get_num_threads(),
        scale,
        softcap or 0.0,
    )
    code = library()
    assert code is not None
    if code.free.fastchat_attend(ctypes.byref(asked), query.dtype is torch.bfloat16):
        raise MemoryError("there is no room for the scores of a step")


def write(new: Tensor, pool: Tensor, places: Tensor, heads: int) -> None:
    """Writes new keys or values to their places in a pool.

    new: (1, heads, T, D), the numbers of a head side by side; places: (n, 5) as in `attend`.
    """
    if new.stride(3) != 1:
        new = new.contiguous()
    code, size = library(), new.itemsize
    assert code is not None
    code.of(new.numel()).fastchat_write(
        new.data_ptr(),
        new.stride(1) * size,
        new.stride(2) * size,
        pool.data_ptr(),
        places.data_ptr(),
        len(places),
        heads,
        new.shape[3] * size,
    )


def add_low_rank(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, owners: Tensor, ranks: Tensor, sizes: Tensor
) -> None:
    """Adds `B (A x)` to the rows of a product, each by the pair of its owner.

    Args:
        x: (T, in) of the type of `y`, the numbers of a row side by side.
        y: (T, out) the same.
        a: (P, S, R, in), for P owners and the S layers that are one product.
        b: (P, R, out).
        owners: (T,) of int64, by row its owner, or less than 0: the row stays as it is.
        ranks: (P,) of int64, how many of the R an owner uses.
        sizes: (S,) of int64, outputs of each layer.

    Raises:
        MemoryError: there is no room for the inner products.
    """
    asked = _LowRank(
        *(tensor.data_ptr() for tensor in (x, y, a, b, owners, ranks, sizes)),
        *(x.stride(0), y.stride(0), len(x), x.shape[1], y.shape[1]),
        *(a.shape[2], a.shape[1], torch.get_num_threads()),
    )
    code = library()
    assert code is not None
    if code.free.fastchat_add_low_rank(ctypes.byref(asked), y.dtype is torch.bfloat16):
        raise MemoryError("there is no room for the products of adapters")


def normalise(x: Tensor, weight: Tensor, *, epsilon: float, rounds_first: bool) -> Tensor:
    """`x` over the root of the mean square of its last dimension, weighted.

    Args:
        x: (..., width).
        weight: (width,) of float32.
        epsilon: added to the mean square.
        rounds_first: in 16 bits, what is normalised is rounded before it is weighted.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    width = x.shape[-1]
    asked = _Norm(
        *(x.data_ptr(), out.data_ptr(), weight.data_ptr()),
        *(x.numel() // width, width, torch.get_num_threads()),
        *(epsilon, rounds_first),
    )
    code = library()
    assert code is not None
    code.of(x.numel()).fastchat_norm(ctypes.byref(asked), x.dtype is torch.bfloat16)
    return out


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns the two halves of each head against each other, by its token's angles.

    x: (1, H, T, D), the numbers of a head side by side, D even; cosine, sine: (1, T, D) of the same
    type. Returns (1, H, T, D).
    """
    _, n_heads, n_tokens, dim = x.shape
    out = torch.empty(1, n_tokens, n_heads, dim, dtype=x.dtype)
    cosine, sine = cosine.contiguous(), sine.contiguous()
    asked = _Rotation(
        *(x.data_ptr(), x.stride(2), x.stride(1)),
        *(cosine.data_ptr(), sine.data_ptr(), out.data_ptr()),
        *(n_tokens, n_heads, dim, torch.get_num_threads()),
    )
    code = library()
    assert code is not None
    code.of(x.numel()).fastchat_rotate(ctypes.byref(asked), x.dtype is torch.bfloat16)
    return out.transpose(1, 2)
