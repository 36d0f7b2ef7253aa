import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fastchat.engine.linear import PackedLinear, pack_linears


@pytest.mark.parametrize("rows", [1, 3, 4, 33, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_what_the_plain_one_gives(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(48, 72, bias=bias)
    model = nn.Sequential(plain, nn.ReLU(), Conv1D(16, 72))
    x = torch.randn(1, rows, 48)
    with torch.inference_mode():
        wanted = model(x)
        assert pack_linears(model) == 2
        assert isinstance(model[0], PackedLinear)
        torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-5)


def test_layers_of_other_kinds_stay_as_they_are() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    hooked = nn.Linear(8, 8)
    hooked.register_forward_hook(lambda *_: None)
    model = nn.Sequential(Scaled(8, 8), hooked, nn.Linear(8, 8, dtype=torch.float64))
    assert pack_linears(model) == 0
