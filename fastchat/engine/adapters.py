"""Adapters over one model: low-rank products added to the rows of a step that ask for them.

Layers that an adapter changes are wrapped once; layers that are one product (`linear._Joined`)
share what is added. A step tells the bank whose rows it computes (`owned_rows.py`), and the
wrapped layers add to each row what its own adapter makes of it (`compiled_delta.py`, `delta.py`).
Rows of the base stay as they are, or get zeros added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastchat.engine import native
from fastchat.engine.compiled_delta import CompiledDelta
from fastchat.engine.delta import Delta
from fastchat.engine.linear import JoinedLinear
from fastchat.engine.owned_rows import BASE, OwnedRows, Places
from fastchat.errors import DataError, UsageError
from fastchat.model.adapters import Adapter, LowRank, shown

AnyDelta = CompiledDelta | Delta


class AdapterBank:
    """The adapters of one model. Belongs to the thread that runs the model."""

    def __init__(self, model: Any, *, base: str, max_rank: int, max_adapters: int) -> None:
        """
        Args:
            model: of transformers; its layers are wrapped as adapters need it.
            base: what the model is called by its operator.
            max_rank: of a layer, at most; larger ones are refused.
            max_adapters: loaded at a time, at most.
        """
        self._model = model
        self._base = base
        self._max_rank = max_rank
        self._max_adapters = max_adapters
        embeddings = model.get_input_embeddings().weight
        self.dtype, self.device = embeddings.dtype, embeddings.device
        self._ranks: list[int] = []
        """By place; 0 where nobody is."""
        self._layers: dict[str, tuple[AnyDelta, int]] = {}
        """By the layer's name, where its pairs go."""
        self._deltas: list[AnyDelta] = []
        self._owners: tuple[int, ...] = ()
        """Of the last pass that had adapters, which is often like the next one."""
        self._tokens: OwnedRows | None = None
        """The rows of a pass; None while no adapter is in it."""
        self._wanted: OwnedRows | None = None
        """Those whose logits are computed, which the head sees alone, and maybe the last layer."""
        self._everyone: int | None = None
        """The adapter of all rows, whatever they are."""
        self._alike: OwnedRows | None = None
        """Rows that are all its own."""

    def add(self, name: str, adapter: Adapter) -> int:
        """Makes an adapter ready for use, and gives its place.

        Raises UsageError when it does not fit the model; nothing has changed then.
        """
        if sum(rank > 0 for rank in self._ranks) >= self._max_adapters:
            raise UsageError(
                f"{self._max_adapters} adapters are loaded, which is --max-loras; unload one first",
                param="lora_name",
            )
        modules = self._checked(name, adapter)
        place = self._ranks.index(0) if 0 in self._ranks else len(self._ranks)
        self._ranks[place : place + 1] = [adapter.rank]
        for module_name, module in modules.items():
            self._attach(module_name, module)
        self._resize()
        for module_name, layer in adapter.layers.items():
            delta, index = self._layers[module_name]
            delta.put(index, place, layer)
        return place

    def remove(self, place: int) -> None:
        """Forgets an adapter; its place is used again. No sequence may be using it."""
        for delta in self._deltas:
            delta.wipe(place)
        self._ranks[place] = 0
        while self._ranks and not self._ranks[-1]:
            self._ranks.pop()
        self._resize()

    def begin(self, owners: Sequence[int | None], wanted: Tensor) -> None:
        """Says whose rows the next pass computes.

        owners: by row, the place of its adapter, None for the base; wanted: (W,) the rows whose
        logits are computed.
        """
        ids = tuple(BASE if owner is None else owner for owner in owners)
        if all(i == BASE for i in ids):
            self._tokens = self._wanted = None
            return
        of_wanted = tuple(ids[row] for row in wanted.tolist())
        if self._tokens is None or self._owners != ids + of_wanted:
            self._tokens, self._wanted = self._rows(ids), self._rows(of_wanted)
            self._owners = ids + of_wanted

    @contextmanager
    def serving(self, place: int | None) -> Iterator[None]:
        """Within it, everything the model computes is that adapter's, or the base's."""
        self._tokens = self._wanted = None
        self._everyone = place
        try:
            yield
        finally:
            self._everyone = self._alike = None

    def rows(self, x: Tensor) -> OwnedRows | None:
        """Who owns the rows that a layer sees; None: nobody but the base. x: (..., in).

        The last layer may see fewer than there are (`last_rows.py`), which are those wanted.
        """
        tokens = self._tokens
        if tokens is None:
            return None if self._everyone is None else self._rows_alike(x)
        return tokens if x.shape[-2] == tokens.n else self._wanted

    def rows_of_head(self, x: Tensor) -> OwnedRows | None:
        """The same for the head."""
        return self._wanted if self._everyone is None else self._rows_alike(x)

    def _rows_alike(self, x: Tensor) -> OwnedRows:
        n, place = x.numel() // x.shape[-1], self._everyone
        assert place is not None
        if self._alike is None or self._alike.n != n:
            self._alike = self._rows((place,) * n)
        return self._alike

    def _rows(self, ids: tuple[int, ...]) -> OwnedRows:
        places = Places(ranks=tuple(self._ranks), width=max(self._ranks))
        return OwnedRows(ids, places, device=self.device)

    def _resize(self) -> None:
        self._tokens = self._wanted = None
        for delta in self._deltas:
            delta.resize(len(self._ranks), max(self._ranks, default=0))

    def _checked(self, name: str, adapter: Adapter) -> dict[str, nn.Module]:
        """The layers that an adapter changes, by name."""
        if adapter.rank > self._max_rank:
            raise UsageError(
                f"the adapter {name!r} has rank {adapter.rank}; up to {self._max_rank} is served "
                "(--max-lora-rank)",
                param="lora_path",
            )
        base, own = shown(adapter.base), shown(self._base)
        if base and base.lower() != own.lower():
            raise UsageError(
                f"the adapter {name!r} was trained on {base!r}, and this model is {own!r}; "
                "where they are the same, correct base_model_name_or_path in its config",
                param="lora_path",
            )
        known = dict(self._text_modules())
        for module, layer in adapter.layers.items():
            if module not in known:
                raise UsageError(
                    f"the adapter {name!r} changes {module[-120:]}, which is no linear layer of "
                    "this model's text part; it was made for another model",
                    param="lora_path",
                )
            here, there = _shape(known[module]), (len(layer.b), layer.a.shape[1])
            if here is not None and here != there:
                raise UsageError(
                    f"the adapter {name!r} was made for another model: {module} is "
                    f"{here[0]} x {here[1]} here and {there[0]} x {there[1]} there",
                    param="lora_path",
                )
            self._refuse_overflow(name, module, layer)
        return {module: known[module] for module in adapter.layers}

    def _refuse_overflow(self, name: str, module: str, layer: LowRank) -> None:
        """Raises DataError where numbers of a pair are none in the model's precision."""
        most = torch.finfo(self.dtype).max
        largest = float(layer.b.float().abs().max()) * abs(layer.scale)
        if not (largest <= most and float(layer.a.float().abs().max()) <= most):
            raise DataError(
                f"the adapter {name!r} is damaged: the numbers of {module[-120:]}, scaled by its "
                f"lora_alpha, exceed {most:.3g}, the largest this model computes with",
                param="lora_path",
            )

    def _text_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Linear layers that see one row a token: not those of a vision tower, nor experts."""
        decoder = self._model.get_decoder() if hasattr(self._model, "get_decoder") else self._model
        within = {id(module) for module in decoder.modules()}
        head = self._model.get_output_embeddings()
        for name, module in self._model.named_modules():
            if isinstance(module, AdaptedLinear):
                yield name, module
            elif name.endswith(".inner") and name.removesuffix(".inner") in self._layers:
                continue
            elif ".experts." in name:
                continue  # sees rows of its own choice
            elif (id(module) in within or module is head) and _shape(module) is not None:
                yield name, module

    def _attach(self, name: str, module: nn.Module) -> None:
        """Makes a layer one that adapters can add to."""
        if name in self._layers:
            return
        if isinstance(module, JoinedLinear):
            delta = next((d for d in self._deltas if d.joined is module.joined), None)
            if delta is None:
                delta = self._new(module.in_features, module.joined.sizes)
                delta.joined, module.joined.delta = module.joined, delta.add
            self._layers[name] = (delta, module.index)
            return
        shape = _shape(module)
        assert shape is not None
        is_head = module is self._model.get_output_embeddings()
        delta = self._new(shape[1], [shape[0]], is_head=is_head)
        self._layers[name] = (delta, 0)
        parent_name, _, own = name.rpartition(".")
        setattr(self._model.get_submodule(parent_name), own, AdaptedLinear(module, delta))

    def _new(self, in_features: int, sizes: Sequence[int], *, is_head: bool = False) -> AnyDelta:
        rows, dtype = self.rows_of_head if is_head else self.rows, self.dtype
        if native.can_compute(dtype, self.device):
            delta = CompiledDelta(in_features, sizes, rows=rows, dtype=dtype)
        else:
            delta = Delta(in_features, sizes, rows=rows, dtype=dtype, device=self.device)
        self._deltas.append(delta)
        return delta


class AdaptedLinear(nn.Module):
    """A linear layer to which adapters add."""

    def __init__(self, inner: nn.Module, delta: AnyDelta) -> None:
        super().__init__()
        self.inner = inner
        shape = _shape(inner)
        assert shape is not None
        self.out_features, self.in_features = shape
        self._add = delta.add

    def forward(self, x: Tensor) -> Tensor:
        return self._add(x, self.inner(x))


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """(out, in) of a linear layer of whatever class; None for what is none."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return int(module.nf), int(module.weight.shape[0])
    out, into = getattr(module, "out_features", None), getattr(module, "in_features", None)
    return (out, into) if isinstance(out, int) and isinstance(into, int) else None
