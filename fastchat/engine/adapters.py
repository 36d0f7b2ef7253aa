"""Adapters over one model: low-rank products added to the rows of a step that ask for them.

Layers that an adapter changes are wrapped once. A step tells the bank which of its rows belong
to which adapter; the wrapped layers then compute, for all rows at once, `x @ A` with the A of all
adapters side by side, wipe what is not a row's own, and add the product with all B. Base rows get
exact zeros added. With few rows a step is bound by the number of calls, not by their size, and
this takes three calls a layer however many adapters there are. Layers that read the same
input (`linear.SIBLINGS`) share the first two.

Where far more adapters are loaded than a step uses, its own are computed one by one.

Dimensions: T rows, P places of adapters, R ranks a place has room for, S siblings of a stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastchat.engine.linear import SIBLINGS
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
        self._dtype, self._device = embeddings.dtype, embeddings.device
        self._is_taken: list[bool] = []
        """By place."""
        self._width = 0
        """R"""
        self._layers: dict[str, AdaptedLinear] = {}
        self._stacks: list[_Stack] = []
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
            self._wrap(module_name, module)
        for stack in self._stacks:
            stack.resize(len(self._is_taken), self._width)
        for module_name, layer in adapter.layers.items():
            self._layers[module_name].put(place, layer)
        self._is_taken[place] = True
        return place

    def remove(self, place: int) -> None:
        """Forgets an adapter; its place is used again. No sequence may be using it."""
        for layer in self._layers.values():
            layer.wipe(place)
        self._is_taken[place] = False
        while self._is_taken and not self._is_taken[-1]:
            self._is_taken.pop()
        for stack in self._stacks:
            stack.resize(len(self._is_taken), self._width)

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
        owners = tuple((i, (ids == i).nonzero().flatten().to(self._device)) for i in used)
        foreign = None
        n_places = len(self._is_taken)
        if n_places <= MOST_IDLE * max(1, len(used)):
            places = torch.arange(n_places).repeat_interleave(self._width)
            foreign = (ids.unsqueeze(1) != places).unsqueeze(1).to(self._device)
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
        """Linear layers, wrapped or not, that see one row a token: not those of a vision tower."""
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

    def _wrap(self, name: str, module: nn.Module) -> None:
        """Puts a wrapper around a layer that has none."""
        if isinstance(module, AdaptedLinear):
            return
        parent_name, _, own = name.rpartition(".")
        is_head = module is self._model.get_output_embeddings()
        stack = self._stack_of(parent_name, own, module)
        wrapper = AdaptedLinear(module, self, stack, is_head=is_head)
        setattr(self._model.get_submodule(parent_name), own, wrapper)
        self._layers[name] = wrapper

    def _stack_of(self, parent_name: str, own: str, module: nn.Module) -> _Stack:
        """The stack of a sibling that reads inputs of the same width, or a new one."""
        shape = _shape(module)
        assert shape is not None
        for names in SIBLINGS:
            for other in names if own in names else ():
                sibling = self._layers.get(f"{parent_name}.{other}" if parent_name else other)
                if sibling is not None and sibling.stack.in_features == shape[1]:
                    return sibling.stack
        stack = _Stack(shape[1], dtype=self._dtype, device=_device(module, self._device))
        self._stacks.append(stack)
        return stack


class _Stack:
    """The A of layers that read the same input, and what they make of it."""

    def __init__(self, in_features: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.in_features = in_features
        self.layers: list[AdaptedLinear] = []
        self.a = torch.zeros(0, 0, 0, in_features, dtype=dtype, device=device)
        """(S, P, R, in)"""
        self._seen: tuple[Tensor, _Rows] | None = None
        self._products = self.a

    def resize(self, n_places: int, width: int) -> None:
        """Makes room for so many places of this width, keeping what is there."""
        self.a = _resized(self.a, len(self.layers), n_places, width)
        for layer in self.layers:
            layer.b = _resized(layer.b, n_places, width)
        self._seen = None

    def products(self, x: Tensor, rows: _Rows) -> Tensor:
        """(T, S, P x R): what the rows make with their own adapter's A, zeros elsewhere."""
        if self._seen is None or self._seen[0] is not x or self._seen[1] is not rows:
            assert rows.foreign is not None
            flat = x[0] if x.dim() == 3 else x
            found = torch.mm(flat, self.a.view(-1, self.in_features).t())
            self._products = found.view(len(flat), len(self.layers), -1)
            self._products.masked_fill_(rows.foreign.to(x.device), 0)
            self._seen = (x, rows)
        return self._products


class AdaptedLinear(nn.Module):
    """A linear layer with the products of adapters added to its rows."""

    def __init__(
        self, inner: nn.Module, bank: AdapterBank, stack: _Stack, *, is_head: bool
    ) -> None:
        super().__init__()
        self.inner = inner
        shape = _shape(inner)
        assert shape is not None
        self.out_features, self.in_features = shape
        self.stack = stack
        self._bank = bank
        self._is_head = is_head
        self._index = len(stack.layers)
        stack.layers.append(self)
        self.b = stack.a.new_zeros(0, 0, self.out_features)
        """(P, R, out), with the scale in it"""

    def put(self, place: int, layer: LowRank) -> None:
        """Sets an adapter's pair."""
        rank = len(layer.a)
        self.wipe(place)
        self.stack.a[self._index, place, :rank] = layer.a.to(self.b)
        self.b[place, :rank] = (layer.b.float() * layer.scale).t().to(self.b)

    def wipe(self, place: int) -> None:
        self.stack.a[self._index, place] = 0
        self.b[place] = 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        bank = self._bank
        if bank.everyone is not None:
            a = self.stack.a[self._index, bank.everyone]
            return y + (x @ a.t()) @ self.b[bank.everyone]
        rows = bank.wanted if self._is_head else bank.tokens
        if rows is None:
            return y
        # In place: what comes from the layer is its own, or its part of what siblings share.
        out = y[0] if y.dim() == 3 else y
        if rows.foreign is not None:
            products = self.stack.products(x, rows)[:, self._index]
            out.addmm_(products, self.b.view(-1, self.out_features))
            return y
        flat = x[0] if x.dim() == 3 else x
        for place, own in rows.owners:
            mine = own.to(x.device)
            product = (flat[mine] @ self.stack.a[self._index, place].t()) @ self.b[place]
            out.index_add_(0, mine, product)
        return y


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


def _device(module: nn.Module, default: torch.device) -> torch.device:
    return next((p.device for p in module.parameters()), default)
