"""The attention of one layer for one packed step, over the pool of keys and values.

New keys and values go to their places first. Then single tokens attend, each over its own
region, in compiled code where there is some (`native.py`) and otherwise in runs of neighbours
that are padded to each other; pieces of prompts attend one after the other.

Dimensions: T tokens of the step, H heads, K kv heads, G = H / K, L keys, D width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fastchat.engine import native
from fastchat.engine.kv_cache import KVCache, LayerShape
from fastchat.engine.plan import Chunk, Plan, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How a layer scores keys."""

    scale: float | None
    """Of the scores; by default one over the root of the keys' width."""
    window: int | None
    """Keys that a token sees, itself included."""
    softcap: float | None
    sinks: Tensor | None
    """(H,), a score per head whose share of the weight goes nowhere."""

    @property
    def is_plain(self) -> bool:
        """Whether PyTorch's fused kernel knows it."""
        return self.softcap is None and self.sinks is None


def attend(
    plan: Plan,
    cache: KVCache,
    layer: int,
    how: Scoring,
    *,
    query: Tensor,
    key: Tensor,
    value: Tensor,
) -> Tensor:
    """Remembers the step's keys and values, and attends.

    query: (1, H, T, D); key, value: (1, K, T, D). Returns (T, H, D of the values).
    """
    shape = cache.shapes[layer]
    keys, values = cache.keys[layer], cache.values[layer]
    is_native = native.can_compute(query.dtype, query.device) and query.dtype == shape.dtype
    places = plan.places(how.window) if is_native else None
    if places is not None:
        native.write(key, keys, places.all, shape.kv_heads)
        native.write(value, values, places.all, shape.kv_heads)
    else:
        rows = plan.write_rows(shape)
        for pool, new, dim in ((keys, key, shape.key_dim), (values, value, shape.value_dim)):
            pool.view(-1, dim).index_copy_(0, rows, new[0].transpose(0, 1).reshape(-1, dim))

    scale = how.scale if how.scale is not None else shape.key_dim**-0.5
    tokens = query[0].transpose(0, 1)
    out = tokens.new_empty(len(tokens), tokens.shape[1], shape.value_dim)
    if plan.n_padding:
        out[len(tokens) - plan.n_padding :] = 0
    if places is not None:
        if len(places.single):
            native.attend(
                *(query, keys, values, places.single, out, shape),
                longest=places.longest,
                scale=scale,
                softcap=how.softcap,
                sinks=how.sinks,
            )
    else:
        for run in plan.runs(how.window, shape):
            part = _run(run, tokens, keys, values, shape, scale, how)
            out[run.first : run.end] = part
    for chunk in plan.chunks(how.window, shape.device):
        out[chunk.first : chunk.end] = _chunk(chunk, query, keys, values, shape, scale, how)
    return out


def _run(
    run: Run,
    tokens: Tensor,
    keys: Tensor,
    values: Tensor,
    shape: LayerShape,
    scale: float,
    how: Scoring,
) -> Tensor:
    """(rows, H, D) of single tokens. tokens: (T, H, D)"""
    n_heads = tokens.shape[1]
    q = tokens[run.first : run.end].reshape(
        -1, shape.kv_heads, n_heads // shape.kv_heads, shape.key_dim
    )
    k = run.view(keys, shape.kv_heads, shape.key_dim)
    v = run.view(values, shape.kv_heads, shape.value_dim)
    # For one query a row, two plain products are quicker on a CPU than its fused kernel
    # (torch 2.13): 10 % in f32 from a few rows on, twofold on two cores or in 16 bits.
    on_cpu = shape.device.type == "cpu"
    if not how.is_plain or (on_cpu and (len(q) > 1 or shape.dtype.itemsize == 2)):
        part = _products(q, k, v, scale, mask=run.mask, how=how)
    else:
        part = scaled_dot_product_attention(q, k, v, attn_mask=run.mask, scale=scale)
    return part.reshape(-1, n_heads, shape.value_dim)


def _chunk(
    chunk: Chunk,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    shape: LayerShape,
    scale: float,
    how: Scoring,
) -> Tensor:
    """(tokens, H, D) of a piece of a prompt. query: (1, H, T, D)"""
    n_heads = query.shape[1]
    group = n_heads // shape.kv_heads
    q = query[:, :, chunk.first : chunk.end]
    k = chunk.view(keys, shape.kv_heads, shape.key_dim)
    v = chunk.view(values, shape.kv_heads, shape.value_dim)
    if how.is_plain:
        part = scaled_dot_product_attention(
            *(q, k, v),
            attn_mask=None if chunk.is_causal else chunk.mask,
            is_causal=chunk.is_causal,
            scale=scale,
            enable_gqa=group > 1,
        )
    else:
        q = q.reshape(1, shape.kv_heads, -1, shape.key_dim)
        mask = chunk.additive_mask(shape.dtype).repeat(group, 1)
        part = _products(q, k, v, scale, mask=mask, how=how)
        part = part.reshape(1, n_heads, -1, shape.value_dim)
    return part[0].transpose(0, 1)


def _products(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, mask: Tensor | None, how: Scoring
) -> Tensor:
    """Attention in plain products, for what the fused kernel does not know.

    query: (B, K, N, D), N being G times as many rows as tokens, heads of a group first; key,
    value: (B, K, L, D); mask: added to the scores.
    """
    # The keys stand first: for few queries that is the quicker way round.
    scores = torch.matmul(key, (query * scale).transpose(-1, -2)).transpose(-1, -2)
    if how.softcap is not None:
        scores = torch.tanh_(scores.div_(how.softcap)).mul_(how.softcap)
    if mask is not None:
        scores += mask
    if how.sinks is None:
        weights = scores.softmax(-1)
    else:
        b, k, n, _ = scores.shape
        group = len(how.sinks) // k
        sink = how.sinks.view(1, k, group, 1, 1).expand(b, k, group, n // group, 1)
        scores = torch.cat([scores, sink.reshape(b, k, n, 1).to(scores.dtype)], dim=-1)
        weights = scores.softmax(-1)[..., :-1]
    return torch.matmul(weights, value)
