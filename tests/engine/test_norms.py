"""Norms in compiled code against the library's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastchat.engine import native
from fastchat.engine.norms import CompiledNorm, compile_norms
from tests.engine.conftest import config_of, needs_compiler

pytestmark = needs_compiler


def norm_classes() -> list[Any]:
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

    return [LlamaRMSNorm, Gemma2RMSNorm, GptOssRMSNorm, Olmo2RMSNorm, nn.RMSNorm]


def made(kind: Any, width: int, dtype: torch.dtype) -> nn.ModuleDict:
    norm = kind(width, eps=1e-5).to(dtype)
    norm.weight.data = torch.randn(width, generator=torch.Generator().manual_seed(1)).to(dtype)
    return nn.ModuleDict({"norm": norm})


@pytest.mark.parametrize("kind", norm_classes(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dtype", native.TYPES)
@pytest.mark.parametrize("width", [1, 24, 100])
def test_it_computes_what_the_library_does(kind: Any, dtype: torch.dtype, width: int) -> None:
    model = made(kind, width, dtype)
    plain = model["norm"]
    generator = torch.Generator().manual_seed(2)
    inputs = [torch.randn(*shape, width, generator=generator).to(dtype) for shape in ((), (1, 5))]
    inputs.append(torch.randn(1, 2, 7, width, generator=generator).to(dtype).transpose(1, 2))
    inputs += [inputs[0] * 1e-4, inputs[0] * 1e15, torch.zeros_like(inputs[0])]
    with torch.inference_mode():
        wanted = [plain(x) for x in inputs]
        assert compile_norms(model) == 1
        for x, by_library in zip(inputs, wanted, strict=True):
            got = model["norm"](x)
            assert got.dtype == dtype
            assert model["norm"].weight is plain.weight
            tolerance = 1e-5 if dtype == torch.float32 else 2**-7
            torch.testing.assert_close(got, by_library, rtol=tolerance, atol=tolerance)


def test_in_16_bits_it_rounds_where_the_library_does() -> None:
    llama, gemma = (
        made(kind, 64, torch.bfloat16) for kind in (norm_classes()[0], norm_classes()[1])
    )
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    with torch.inference_mode():
        for model, is_first in ((llama, True), (gemma, False)):
            wanted = model["norm"](x)
            compile_norms(model)
            norm = model["norm"]
            assert isinstance(norm, CompiledNorm)
            assert norm.rounds_first is is_first
            assert float((norm(x) == wanted).float().mean()) > 0.99


def test_rows_are_the_same_on_any_number_of_threads() -> None:
    model = made(norm_classes()[0], 512, torch.float32)
    x = torch.randn(300, 512, generator=torch.Generator().manual_seed(4))
    compile_norms(model)
    norm, before = model["norm"], torch.get_num_threads()
    try:
        found: list[Tensor] = []
        for n in (1, 2, 7):
            torch.set_num_threads(n)
            found.append(norm(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


class OddRMSNorm(nn.Module):
    """Looks like the others, and subtracts the mean."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:]) * self.weight


def hooked() -> nn.ModuleDict:
    model = made(norm_classes()[0], 24, torch.float32)
    model["norm"].register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    "model",
    [
        lambda: made(OddRMSNorm, 24, torch.float32),
        lambda: made(norm_classes()[0], 24, torch.float16),
        lambda: made(nn.LayerNorm, 24, torch.float32),
        hooked,
    ],
)
def test_what_computes_otherwise_stays(model: Callable[[], nn.Module]) -> None:
    assert compile_norms(model()) == 0


def test_another_type_than_it_was_made_for_is_the_modules_own() -> None:
    model = made(norm_classes()[0], 24, torch.float32)
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(5)).double()
    wanted = model["norm"](x)
    compile_norms(model)
    assert torch.equal(model["norm"](x), wanted)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "gpt2"])
def test_the_norms_of_a_model_are_found(architecture: str) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config_of(architecture)).eval()
    ids = torch.arange(3, 40).unsqueeze(0)
    with torch.inference_mode():
        wanted = model(ids).logits
        n = compile_norms(model)
        got = model(ids).logits
    assert n == {"llama": 5, "qwen3": 9, "gemma2": 9, "gpt2": 0}[architecture]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
