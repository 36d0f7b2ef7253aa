"""Attention within each conversation of a packed row, without the square of the whole row.

Registered with transformers under `segments`; a model has to know nothing of it. The bounds of
the conversations come as `cu_seq_lens_q`, the name that transformers gives them. On a GPU torch's
variable-length kernel computes a row in one call, elsewhere each conversation is a call of its
own: no token is compared with one that it must not see, so a long row costs no more than its
conversations do. Without bounds this is transformers' own scaled-dot-product attention.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "segments"


def register() -> None:
    """Makes the name known to transformers."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask_for)


def mask_for(
    *args: Any,
    attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    **kwargs: Any,
) -> torch.Tensor | None:
    """No mask for packed rows, whose bounds `attend` keeps itself; else that of sdpa.

    transformers forbids to skip the mask, without asking for vmap, exactly where it found
    positions that begin anew.
    """
    if attention_mask is None and not allow_is_causal_skip and not use_vmap:
        return None
    return sdpa_mask(
        *args,
        attention_mask=attention_mask,
        allow_is_causal_skip=allow_is_causal_skip,
        use_vmap=use_vmap,
        **kwargs,
    )


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """(batch, heads, length, size) of queries, keys and values -> (batch, length, heads, size)."""
    if cu_seq_lens_q is None or max_length_q is None or query.shape[2] != key.shape[2]:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            sliding_window=sliding_window,
            **kwargs,
        )
    if kwargs.get("softcap") is not None or kwargs.get("position_bias") is not None:
        raise NotImplementedError("attention by segments knows no softcap and no position bias")
    window = None if sliding_window is None or sliding_window >= max_length_q else sliding_window
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not dropout:
        return _attend_at_once(
            query, key, value, cu_seq_lens_q, max_length=max_length_q, scale=scaling, window=window
        ), None
    n_groups = query.shape[1] // key.shape[1]
    lengths = cu_seq_lens_q.diff().tolist()
    pieces = [
        scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if window is None else _band(q, window),
            dropout_p=dropout,
            is_causal=window is None,
            scale=scaling,
        )
        for q, k, v in zip(
            query.split(lengths, dim=2),
            repeat_kv(key, n_groups).split(lengths, dim=2),
            repeat_kv(value, n_groups).split(lengths, dim=2),
            strict=True,
        )
    ]
    return torch.cat([piece.transpose(1, 2) for piece in pieces], dim=1), None


def _attend_at_once(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    *,
    max_length: int,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """The same by torch's kernel for sequences of different lengths."""
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        bounds,
        bounds,
        max_length,
        max_length,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, torch.Tensor)
    return output.unsqueeze(0)


def _band(query: torch.Tensor, window: int) -> torch.Tensor:
    """(length, length), true where a token sees another: itself and `window` - 1 before it."""
    place = torch.arange(query.shape[2], device=query.device)
    distance = place[:, None] - place[None, :]
    return (distance >= 0) & (distance < window)
