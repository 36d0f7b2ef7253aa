import pytest
import torch
from torch import nn

from fastchat.model.compression import Linear8bit, Scheme, quantize, restore


def weight(n_out: int = 64, n_in: int = 600) -> torch.Tensor:
    return torch.randn(n_out, n_in, generator=torch.Generator().manual_seed(0))


def error(values: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    groups = quantize(values, scheme)
    return (restore(groups, values.shape[1], torch.float32) - values.float()).abs()


@pytest.mark.parametrize(
    ("scheme", "published"),
    [
        (Scheme(), 0.0179),
        (Scheme(is_symmetric=False), 0.0150),
        (Scheme(bits=4), 0.324),
    ],
)
def test_the_largest_error_of_normal_weights_is_the_published_one(
    scheme: Scheme, published: float
) -> None:
    assert error(weight(), scheme).max().item() == pytest.approx(published, rel=0.1)


@pytest.mark.parametrize("n_in", [1, 255, 256, 257, 600])
def test_no_weight_moves_by_more_than_half_a_step_of_its_group(n_in: int) -> None:
    values = weight(8, n_in)
    moved = nn.functional.pad(error(values, Scheme()), (0, -n_in % 256)).view(8, -1, 256)
    largest = nn.functional.pad(values, (0, -n_in % 256)).view(8, -1, 256).abs().amax(-1)
    assert (moved.amax(-1) <= largest / 254 * (1 + 1e-5)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_small_and_equal_weights_survive(dtype: torch.dtype) -> None:
    for values in (weight() * 1e-4, torch.zeros(4, 300), torch.full((4, 300), 0.5)):
        values = values.to(dtype)
        assert (error(values, Scheme()) <= values.float().abs().max() / 254 * 1.001).all()
        assert error(values, Scheme(is_symmetric=False)).max() < 1e-3


def test_a_layer_computes_with_the_restored_weight() -> None:
    linear = nn.Linear(300, 20)
    layer = Linear8bit.from_linear(linear)
    inputs = torch.randn(2, 5, 300)
    wanted = nn.functional.linear(
        inputs, restore(quantize(linear.weight.detach()), 300, torch.float32), linear.bias
    )
    assert torch.equal(layer(inputs), wanted)
    assert layer.weight.dtype == torch.int8
    assert layer(inputs.bfloat16().float()).shape == (2, 5, 20)


def test_a_head_that_shares_the_embeddings_stays_as_it_is(tmp_path: object) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from fastchat.model.compression import loading_arguments

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(str(tmp_path))
    model = LlamaForCausalLM.from_pretrained(str(tmp_path), **loading_arguments())
    assert type(model.lm_head) is nn.Linear
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert isinstance(model.model.layers[0].mlp.up_proj, Linear8bit)
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
