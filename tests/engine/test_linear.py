import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fastchat.engine.linear import JoinedLinear, PackedLinear, filled, pack_linears


@pytest.mark.parametrize("rows", [1, 3, 4, 33, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_what_the_plain_one_gives(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(512, 520, bias=bias)
    model = nn.Sequential(plain, nn.ReLU(), Conv1D(600, 520), nn.Linear(600, 8))
    x = torch.randn(1, rows, 512)
    with torch.inference_mode():
        wanted = model(x)
        assert pack_linears(model) == 2
        assert isinstance(model[0], PackedLinear)
        assert isinstance(model[3], nn.Linear)
        torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-5)


def test_layers_of_other_kinds_stay_as_they_are() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    hooked = nn.Linear(600, 600)
    hooked.register_forward_hook(lambda *_: None)
    model = nn.Sequential(Scaled(600, 600), hooked, nn.Linear(600, 600, dtype=torch.float64))
    assert pack_linears(model) == 0


class Attention(nn.Module):
    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.q_proj = nn.Linear(512, 512, bias=bias)
        self.k_proj = nn.Linear(512, 128, bias=bias)
        self.v_proj = nn.Linear(512, 128, bias=bias)

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        q, k = self.q_proj(x), self.k_proj(x if other is None else other)
        return torch.cat([q, k, self.v_proj(x)], dim=-1)


@pytest.mark.parametrize("bias", [True, False])
def test_layers_that_read_one_input_become_one_product(bias: bool) -> None:
    torch.manual_seed(0)
    layer = Attention(bias=bias)
    x, other = torch.randn(2, 1, 5, 512)
    with torch.inference_mode():
        wanted, crossed = layer(x), layer(x, other)
        assert pack_linears(layer) == 3
        assert isinstance(layer.q_proj, JoinedLinear)
        torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer(x, other), crossed, rtol=1e-4, atol=1e-5)


def test_unlike_siblings_are_packed_one_by_one() -> None:
    layer = Attention(bias=False)
    layer.k_proj = nn.Linear(512, 1024, bias=True)
    assert pack_linears(layer) == 3
    assert isinstance(layer.q_proj, PackedLinear)
    assert isinstance(layer.k_proj, PackedLinear)


def test_a_step_is_filled_up_by_little_to_one_of_few_sizes() -> None:
    assert [filled(n) for n in (0, 1, 4, 5, 64, 65, 130, 512)] == [0, 4, 4, 8, 64, 72, 144, 512]
    assert all(0 <= filled(n) - n < 32 for n in range(2000))
    assert len({filled(n) for n in range(1, 513)}) == 40
