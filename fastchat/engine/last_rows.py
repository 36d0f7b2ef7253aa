"""The last layer's feed-forward part, for those rows alone whose logits are wanted.

Of a prompt's piece only the last row is. Once a layer has stored its keys and values nobody reads
its other rows, unless a layer follows: in a model of twelve layers that spares a twentieth of
every prompt. `check.py` compares the logits of such steps with the library's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

SPARED = 2
"""The rows must be this many times those wanted, or it is not worth the copies."""


class LastRows:
    """Stands in for a model's last feed-forward module; without one it has no effect."""

    def __init__(self, model: Any) -> None:
        self._wanted: Tensor | None = None
        self._module = _last_feed_forward(model)
        if self._module is not None:
            self._plain = self._module.forward
            self._module.forward = self._forward

    def close(self) -> None:
        """Gives the module its own forward back."""
        if self._module is not None and "forward" in vars(self._module):
            del self._module.forward

    @contextmanager
    def only(self, wanted: Tensor) -> Iterator[None]:
        """Within it, rows that are not among `wanted` (W,) may be given zeros."""
        self._wanted = wanted
        try:
            yield
        finally:
            self._wanted = None

    def _forward(self, x: Tensor) -> Tensor:
        """x: (1, T, width)"""
        wanted = self._wanted
        if wanted is None or x.dim() != 3 or x.shape[1] < SPARED * max(1, len(wanted)):
            return self._plain(x)
        if not len(wanted):
            return x.new_zeros(x.shape)
        some = self._plain(x[:, wanted])
        out = some.new_zeros(1, x.shape[1], some.shape[2])
        return out.index_copy_(1, wanted, some)


def _last_feed_forward(model: Any) -> nn.Module | None:
    """The `mlp` of the last layer, where it is one of plain rows and not of experts."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    layers = getattr(decoder, "layers", None) or getattr(decoder, "h", None)
    module = getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) else None
    if module is None or "forward" in vars(module) or module._forward_hooks:
        return None
    if module._forward_pre_hooks or any(isinstance(m, nn.ModuleList) for m in module.modules()):
        return None
    names = {name.rpartition(".")[2] for name, _ in module.named_modules()}
    if names & {"experts", "router", "shared_expert"} or not isinstance(module, nn.Module):
        return None
    return module
