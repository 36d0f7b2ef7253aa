"""Rotary embeddings in compiled code against the library's own."""

from typing import Any

import pytest
import torch

from fastchat.engine import native
from fastchat.engine.rotary import NAME, compile_rotary
from tests.engine.conftest import config_of, needs_compiler

pytestmark = needs_compiler


def model_of(architecture: str, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_of(architecture)).eval().to(dtype)


@pytest.mark.parametrize("dtype", native.TYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (1, 4, 7, 64), (1, 3, 2, 80)])
def test_it_computes_what_the_library_does(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    generator = torch.Generator().manual_seed(1)
    _, heads, tokens, dim = shape
    joined = torch.randn(1, tokens, 3 * heads * dim, generator=generator).to(dtype)
    query = joined[..., : heads * dim].view(1, tokens, heads, dim).transpose(1, 2)
    angles = torch.randn(1, tokens, dim, generator=generator)
    cosine, sine = angles.cos().to(dtype), angles.sin().to(dtype)
    wanted = apply_rotary_pos_emb(query, query, cosine, sine)[0]
    got = native.rotate(query, cosine, sine)
    assert got.shape == wanted.shape
    tolerance = 1e-6 if dtype == torch.float32 else 2**-6
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", native.TYPES)
@pytest.mark.parametrize(
    ("architecture", "n_layers"),
    [("llama", 2), ("qwen3", 2), ("gemma2", 2), ("phi3", 2), ("gpt_neox", 2), ("gpt2", 0)],
)
def test_a_model_says_the_same_with_it(
    architecture: str, n_layers: int, dtype: torch.dtype
) -> None:
    model = model_of(architecture, dtype)
    ids = torch.arange(3, 40).unsqueeze(0)
    with torch.inference_mode():
        wanted = model(ids).logits.float()
        assert compile_rotary(model, dtype) == n_layers
        got = model(ids).logits.float()
    size = float(wanted.abs().max())
    assert float((got - wanted).abs().max()) <= (1e-5 if dtype == torch.float32 else 0.1) * size


def test_threads_change_nothing() -> None:
    x, before = torch.randn(1, 8, 300, 64), torch.get_num_threads()
    angles = torch.randn(1, 300, 64)
    try:
        found: list[torch.Tensor] = []
        for n in (1, 2, 7):
            torch.set_num_threads(n)
            found.append(native.rotate(x, angles.cos(), angles.sin()))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_other_models_of_the_class_keep_their_own() -> None:
    from transformers.models.llama import modeling_llama

    before, one, two = getattr(modeling_llama, NAME), model_of("llama"), model_of("llama")
    compile_rotary(one, torch.float32)
    assert getattr(modeling_llama, NAME) is before
    assert "forward" in vars(one.model.layers[0].self_attn)
    assert "forward" not in vars(two.model.layers[0].self_attn)
    assert compile_rotary(one, torch.float32) == 0, "once is enough"


@pytest.mark.parametrize("dtype", native.TYPES)
@pytest.mark.parametrize("first", [0, 5])
def test_a_text_is_the_same_alone_and_beside_others(first: int, dtype: torch.dtype) -> None:
    model = model_of("llama", dtype)
    ids, places = torch.arange(3, 43).view(2, 20), torch.stack([torch.arange(20)] * 2)
    places[1] += first
    with torch.inference_mode():
        wanted = model(ids, position_ids=places).logits.float()
        compile_rotary(model, dtype)
        together = model(ids, position_ids=places).logits.float()
        alone = [model(ids[i : i + 1], position_ids=places[i : i + 1]).logits for i in range(2)]
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    size = float(wanted.abs().max())
    assert float((together - wanted).abs().max()) <= tolerance * size
    assert float((together - torch.cat(alone).float()).abs().max()) <= tolerance * size


@pytest.mark.parametrize("n_angles", [1, 3])
def test_in_16_bits_a_text_is_rotated_the_same_in_a_batch(n_angles: int) -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    from fastchat.engine.rotary import _compiled

    rotate = _compiled(apply_rotary_pos_emb)
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(3, 4, 7, 16, generator=generator).bfloat16()
    k = torch.randn(3, 2, 7, 16, generator=generator).bfloat16()
    angles = torch.randn(n_angles, 7, 16, generator=generator)
    cosine, sine = angles.cos().bfloat16(), angles.sin().bfloat16()
    together = rotate(q, k, cosine, sine)
    for i in range(3):
        own = slice(i, i + 1) if n_angles == 3 else slice(0, 1)
        alone = rotate(q[i : i + 1], k[i : i + 1], cosine[own], sine[own])
        assert torch.equal(together[0][i : i + 1], alone[0])
        assert torch.equal(together[1][i : i + 1], alone[1])


def test_another_rotation_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama import modeling_llama

    def interleaved(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
        def turned(x: Any) -> Any:
            return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)

        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return q * cos + turned(q) * sin, k * cos + turned(k) * sin

    def of_queries(q: Any) -> Any:
        return q

    for other in (interleaved, of_queries):
        monkeypatch.setattr(modeling_llama, NAME, other)
        assert compile_rotary(model_of("llama"), torch.float32) == 0


def test_without_compiled_code_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    assert compile_rotary(model_of("llama"), torch.float32) == 0
    assert compile_rotary(model_of("llama"), torch.float16) == 0
