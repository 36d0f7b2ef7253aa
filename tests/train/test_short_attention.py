"""Short rows in 32 bits: the same attention, more exactly, and only where it is the quicker way."""

from typing import Any

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fastchat.train import short_attention


def learned(
    attend: Any, rows: list[torch.Tensor], mask: torch.Tensor | None, dtype: torch.dtype | None
) -> list[torch.Tensor]:
    """What comes out, and the gradients, under autocast to `dtype` unless that is None."""
    inputs = [row.clone().requires_grad_() for row in rows]
    module = torch.nn.Module()
    module.is_causal = True  # type: ignore[assignment]
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        output, _ = attend(module, *inputs, mask, scaling=0.25)
    output.float().square().sum().backward()
    grads = [x.grad for x in inputs]
    return [output, *(grad for grad in grads if grad is not None)]


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_it_is_nearer_to_32_bits_than_the_kernel_for_16(
    is_masked: bool, given: torch.dtype
) -> None:
    torch.manual_seed(0)
    rows = [torch.randn(2, 3, 70, 16, dtype=torch.bfloat16).to(given) for _ in range(3)]
    mask = torch.ones(70, 70, dtype=torch.bool).tril()[None, None] if is_masked else None
    found = learned(short_attention.attend, rows, mask, torch.bfloat16)
    theirs = learned(sdpa_attention_forward, rows, mask, torch.bfloat16)
    exact = learned(sdpa_attention_forward, [row.float() for row in rows], mask, None)
    assert [x.dtype for x in found] == [x.dtype for x in theirs]
    for one, other, right in zip(found, theirs, exact, strict=True):
        scale = right.abs().max()
        assert (one.float() - right).abs().max() <= 0.02 * scale
        assert (one.float() - right).norm() <= 1.05 * (other.float() - right).norm()


@pytest.mark.parametrize(
    ("length", "cast"),
    [(8, None), (short_attention.LONGEST + 1, torch.bfloat16)],
)
def test_else_it_is_the_librarys_own(length: int, cast: torch.dtype | None) -> None:
    rows = [torch.randn(1, 1, length, 8, dtype=torch.bfloat16) for _ in range(3)]
    for one, other in zip(
        learned(short_attention.attend, rows, None, cast),
        learned(sdpa_attention_forward, rows, None, cast),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_it_stands_in_for_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AttentionInterface, "_global_mapping", {})
    short_attention.register()
    assert AttentionInterface()["sdpa"] is short_attention.attend
