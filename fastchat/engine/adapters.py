"""Adapters over one model: low-rank products added to the rows of a step that ask for them.

Layers that an adapter changes are wrapped once. A step tells the bank which of its rows belong
to which adapter; the wrapped layers then compute, for all rows at once, `x @ A` with the A of all
adapters side by side, wipe what is not a row's own, and add the product with all B. Base rows get
exact zeros added. With few rows a step is bound by the number of calls, not by their size, and
this takes three calls however many adapters there are; layers that are one product
(`linear._Joined`) share them.

Where far more adapters are loaded than a step uses, its own are computed one by one.

Dimensions: T rows, P places of adapters, R ranks a place has room for, S layers of a product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastchat.engine.linear import JoinedLinear
from fastchat.errors import UsageError
from fastchat.model.adapters import Adapter, LowRank, shown

MOST_IDLE = 4
"""Adapters loaded for each that a step uses, up to which all are computed side by side."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Which rows of a pass belong to which adapter."""

    owners: tuple[tuple[int, Tensor], ...]
    """(place of the adapter, its rows)."""
    foreign: Tensor | None
    """(T, 1, P x R), true where a product is not the row's own; None: one by one."""


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
        self._is_taken: list[bool] = []
        """By place."""
        self._width = 0
        """R"""
        self._layers: dict[str, tuple[Delta, int]] = {}
        """By the layer's name, where its pairs go."""
        self._deltas: list[Delta] = []
        self.tokens: _Rows | None = None
        """The rows of a pass; None while no adapter is in it."""
        self.wanted: _Rows | None = None
        """Those whose logits are computed, which the head sees alone."""
        self.everyone: int | None = None
        """The adapter of all rows, whatever they are."""

    def add(self, name: str, adapter: Adapter) -> int:
        """Makes an adapter ready for use, and gives its place.

        Raises UsageError when it does not fit the model; nothing has changed then.
        """
        if sum(self._is_taken) >= self._max_adapters:
            raise UsageError(
                f"{self._max_adapters} adapters are loaded, which is --max-loras; unload one first",
                param="lora_name",
            )
        modules = self._checked(name, adapter)
        place = self._is_taken.index(False) if False in self._is_taken else len(self._is_taken)
        if place == len(self._is_taken):
            self._is_taken.append(False)
        self._width = max(self._width, adapter.rank)
        for module_name, module in modules.items():
            self._attach(module_name, module)
        for delta in self._deltas:
            delta.resize(len(self._is_taken), self._width)
        for module_name, layer in adapter.layers.items():
            delta, index = self._layers[module_name]
            delta.put(index, place, layer)
        self._is_taken[place] = True
        return place

    def remove(self, place: int) -> None:
        """Forgets an adapter; its place is used again. No sequence may be using it."""
        for delta in self._deltas:
            delta.wipe(place)
        self._is_taken[place] = False
        while self._is_taken and not self._is_taken[-1]:
            self._is_taken.pop()
        for delta in self._deltas:
            delta.resize(len(self._is_taken), self._width)

    def begin(self, owners: Sequence[int | None], wanted: Tensor) -> None:
        """Says whose rows the next pass computes.

        owners: by row, the place of its adapter, None for the base; wanted: (W,) the rows whose
        logits are computed.
        """
        self.tokens = self.wanted = None
        if any(owner is not None for owner in owners):
            ids = torch.tensor([-1 if owner is None else owner for owner in owners])
            self.tokens = self._rows(ids)
            self.wanted = self._rows(ids[wanted.cpu()])

    @contextmanager
    def serving(self, place: int | None) -> Iterator[None]:
        """Within it, everything the model computes is that adapter's, or the base's."""
        self.tokens = self.wanted = None
        self.everyone = place
        try:
            yield
        finally:
            self.everyone = None

    def _rows(self, ids: Tensor) -> _Rows:
        """The rows of each adapter. ids: (T,), -1 for the base."""
        used = [int(i) for i in ids.unique() if i >= 0]
        owners = tuple((i, (ids == i).nonzero().flatten().to(self.device)) for i in used)
        foreign = None
        n_places = len(self._is_taken)
        if n_places <= MOST_IDLE * max(1, len(used)):
            places = torch.arange(n_places).repeat_interleave(self._width)
            foreign = (ids.unsqueeze(1) != places).unsqueeze(1).to(self.device)
        return _Rows(owners, foreign)

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
        return {module: known[module] for module in adapter.layers}

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
                delta = Delta(self, module.in_features, module.joined.sizes)
                delta.joined, module.joined.delta = module.joined, delta.add
                self._deltas.append(delta)
            self._layers[name] = (delta, module.index)
            return
        shape = _shape(module)
        assert shape is not None
        is_head = module is self._model.get_output_embeddings()
        delta = Delta(self, shape[1], [shape[0]], is_head=is_head)
        self._deltas.append(delta)
        self._layers[name] = (delta, 0)
        parent_name, _, own = name.rpartition(".")
        setattr(self._model.get_submodule(parent_name), own, AdaptedLinear(module, delta))


class Delta:
    """What adapters add to one product: that of a layer, or the one that siblings share."""

    def __init__(
        self, bank: AdapterBank, in_features: int, sizes: Sequence[int], *, is_head: bool = False
    ) -> None:
        """
        Args:
            bank: says whose rows there are.
            in_features: of the product.
            sizes: outputs of each of the S layers in it.
            is_head: the rows are those whose logits are computed.
        """
        self.joined: object = None
        """The siblings' product, where it is one."""
        self.sizes = list(sizes)
        self._bank = bank
        self._is_head = is_head
        options: dict[str, Any] = {"dtype": bank.dtype, "device": bank.device}
        self._a = torch.zeros(len(sizes), 0, 0, in_features, **options)
        """(S, P, R, in)"""
        self._b = [torch.zeros(0, 0, size, **options) for size in sizes]
        """(P, R, out), with the scale in it"""
        self._resize_views()

    def resize(self, n_places: int, width: int) -> None:
        """Makes room for so many places of this width, keeping what is there."""
        self._a = _resized(self._a, len(self.sizes), n_places, width)
        self._b = [_resized(b, n_places, width) for b in self._b]
        self._resize_views()

    def put(self, index: int, place: int, layer: LowRank) -> None:
        """Sets an adapter's pair of one layer."""
        self._a[index, place, : len(layer.a)] = layer.a.to(self._a)
        self._b[index][place, : len(layer.a)] = (layer.b.float() * layer.scale).t().to(self._a)
        self._resize_views()

    def wipe(self, place: int) -> None:
        """Makes a place one that adds nothing."""
        self._a[:, place] = 0
        for b in self._b:
            b[place] = 0
        self._resize_views()

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """`y` with the products of `x` added, in place. x: (..., in); y: (..., sum of sizes)."""
        bank = self._bank
        if bank.everyone is not None:
            for i, part in enumerate(y.split(self.sizes, dim=-1)):
                part.add_((x @ self._a[i, bank.everyone].t()) @ self._b[i][bank.everyone])
            return y
        rows = bank.wanted if self._is_head else bank.tokens
        if rows is None:
            return y
        flat, out = (x[0], y[0]) if x.dim() == 3 else (x, y)
        if rows.foreign is None:
            for place, own in rows.owners:
                mine = own.to(x.device)
                for i, part in enumerate(out.split(self.sizes, dim=-1)):
                    product = (flat[mine] @ self._a[i, place].t()) @ self._b[i][place]
                    part.index_add_(0, mine, product)
            return y
        foreign = rows.foreign if rows.foreign.device == x.device else rows.foreign.to(x.device)
        products = torch.mm(flat, self._flat_a).view(len(flat), len(self.sizes), -1)
        products.masked_fill_(foreign, 0)
        if self._stacked_b is not None:
            parts = out.view(len(flat), len(self.sizes), -1).transpose(0, 1)
            parts.baddbmm_(products.transpose(0, 1), self._stacked_b)
            return y
        for i, part in enumerate(out.split(self.sizes, dim=-1)):
            part.addmm_(products[:, i], self._b[i].flatten(0, 1))
        return y

    def _resize_views(self) -> None:
        self._flat_a = self._a.flatten(0, 2).t()
        """(in, S x P x R)"""
        self._stacked_b: Tensor | None = None
        """(S, P x R, out), where siblings are equally wide: one call in place of S"""
        if len(self.sizes) > 1 and len(set(self.sizes)) == 1:
            stacked = torch.stack(self._b)
            self._b = list(stacked.unbind(0))
            self._stacked_b = stacked.flatten(1, 2)


class AdaptedLinear(nn.Module):
    """A linear layer to which adapters add."""

    def __init__(self, inner: nn.Module, delta: Delta) -> None:
        super().__init__()
        self.inner = inner
        shape = _shape(inner)
        assert shape is not None
        self.out_features, self.in_features = shape
        self._add = delta.add

    def forward(self, x: Tensor) -> Tensor:
        return self._add(x, self.inner(x))


def _resized(old: Tensor, *sizes: int) -> Tensor:
    """A tensor of these first sizes, zeros where there was nothing."""
    if tuple(old.shape[: len(sizes)]) == sizes:
        return old
    new = old.new_zeros(*sizes, old.shape[-1])
    common = tuple(slice(0, min(a, b)) for a, b in zip(old.shape, sizes, strict=False))
    new[common] = old[common]
    return new


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """(out, in) of a linear layer of whatever class; None for what is none."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return int(module.nf), int(module.weight.shape[0])
    out, into = getattr(module, "out_features", None), getattr(module, "in_features", None)
    return (out, into) if isinstance(out, int) and isinstance(into, int) else None
