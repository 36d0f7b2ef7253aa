"""One forward pass over pieces of many sequences, without padding and without copies.

All tokens of a step stand in one row: the next token of every sequence that is answering, then
pieces of prompts. Each knows its position, and a registered attention function does what the
model leaves to it: it writes the new keys and values where they belong in the pool, and lets
each piece attend to its own sequence. Nothing of the library's cache or masks is used, so any
causal model whose layers go through the attention interface can be served, as long as
attention is all it remembers; `check.py` finds out.

What a step needs is worked out once (`plan.py`) and used by all layers.

Run on CPUs only so far; nothing in it is particular to them but the choice of a kernel.

Dimensions: T tokens of the step, H heads, K kv heads, G = H / K, L keys, D width of a head.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from fastchat.engine.adapters import AdapterBank
from fastchat.engine.attention import Scoring, attend
from fastchat.engine.kv_cache import KVCache, LayerShape
from fastchat.engine.last_rows import LastRows
from fastchat.engine.plan import Plan, Segment
from fastchat.errors import ModelError

_names = itertools.count()


class UnsupportedModelError(ModelError):
    """The model remembers more than keys and values, or hides its attention."""


class PackedModel:
    """A model that computes segments over a KVCache."""

    def __init__(
        self,
        model: Any,
        *,
        budget: int,
        longest: int,
        device: torch.device,
        filled: Callable[[int], int] = int,
    ) -> None:
        """
        Args:
            model: a causal model of transformers, on `device`.
            budget: tokens that the cache holds.
            longest: tokens of the longest sequence.
            device: where the model is.
            filled: how many rows to compute in place of so many; the rest is padding.

        Raises:
            UnsupportedModelError: this model cannot be served this way.
        """
        self._model = model
        self.device = device
        self._filled = filled
        self._configs = _attention_configs(model)
        self._name = f"fastchat-{next(_names)}"
        self._plain = self._configs[0]._attn_implementation
        rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
        self._n_axes = 3 if "mrope_section" in rope else 1
        _fix_frequencies(model, longest, device=device)
        self._plan: Plan | None = None
        self._last: LastRows | None = None
        self.has_vision = False
        """Whether it may be given pictures' embeddings; `check.check_pictures` finds out."""
        self.adapters: AdapterBank | None = None
        """Where there are any, they compute their rows."""
        self.cache = KVCache(self._probe(), budget=budget, longest=longest)
        if device.type == "cpu":
            self._last = LastRows(model)
        self._install(self._attend)

    def close(self) -> None:
        """Gives the model its own attention back."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        self._use(self._plain)
        if self._last is not None:
            self._last.close()
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop(self._name, None)

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        """Within it, the model can be called in the library's own way."""
        self._use(self._plain)
        try:
            yield
        finally:
            self._use(self._name)

    @contextmanager
    def whole_passes_by(self, adapter: int | None) -> Iterator[None]:
        """Within it, passes in the library's own way are an adapter's, or the base's."""
        if self.adapters is None:
            yield
            return
        with self.adapters.serving(adapter):
            yield

    def forward(self, segments: Sequence[Segment]) -> Tensor:
        """Computes the segments and leaves their keys and values in the cache.

        Segments of one token should come first and in the order of their regions: neighbours
        then attend in one call. Returns logits (rows, vocabulary), rows in segment order.
        """
        self._plan = plan = Plan(
            segments, self.cache, self._filled, device=self.device, n_axes=self._n_axes
        )
        if self.adapters is not None:
            self.adapters.begin(plan.owners, plan.wanted)
        last = self._last
        with torch.inference_mode(), nullcontext() if last is None else last.only(plan.wanted):
            logits = self._model(
                **self._inputs(plan),
                position_ids=plan.positions,
                use_cache=False,
                logits_to_keep=plan.wanted,
            ).logits
        return logits[0, : plan.n_wanted]

    def _inputs(self, plan: Plan) -> dict[str, Tensor]:
        """The tokens, or their embeddings where some are pictures'."""
        if not plan.pictured:
            return {"input_ids": plan.token_ids}
        embeddings = self._model.get_input_embeddings()(plan.token_ids)
        rows = torch.tensor(plan.pictured, device=self.device)
        embeddings[0, rows] = torch.cat(plan.embeddings).to(embeddings)
        return {"inputs_embeds": embeddings}

    def _probe(self) -> dict[int, LayerShape]:
        """What each attention layer stores, seen in one small pass."""
        shapes: dict[int, LayerShape] = {}

        def look(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **kwargs: Any):
            if kwargs.get("position_bias") is not None or not getattr(module, "is_causal", True):
                raise UnsupportedModelError("its attention is not plainly causal")
            if module.layer_idx in shapes:
                raise UnsupportedModelError("a layer attends more than once")
            shapes[module.layer_idx] = LayerShape(
                kv_heads=key.shape[1],
                key_dim=key.shape[3],
                value_dim=value.shape[3],
                dtype=key.dtype,
                device=key.device,
            )
            t, heads = query.shape[2], query.shape[1]
            return value.new_zeros(1, t, heads, value.shape[3]), None

        config = self._model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ()) - {
            "full_attention",
            "sliding_attention",
        }
        if kinds:
            raise UnsupportedModelError(f"it has layers of the kind {', '.join(sorted(kinds))}")
        self._install(look)
        try:
            ids = torch.zeros(1, 3, dtype=torch.long, device=self.device)
            with torch.inference_mode():
                out = self._model(
                    input_ids=ids,
                    position_ids=torch.arange(3, device=self.device).unsqueeze(0),
                    use_cache=False,
                    logits_to_keep=torch.tensor([0, 2], device=self.device),
                )
        except (TypeError, ValueError, AttributeError, RuntimeError, KeyError) as error:
            raise UnsupportedModelError(f"a pass without a cache fails: {error}") from error
        finally:
            self.close()
        if len(shapes) != config.num_hidden_layers:
            raise UnsupportedModelError("not all of its layers use the attention interface")
        if out.logits.shape[1] != 2:
            raise UnsupportedModelError("it does not compute logits for chosen tokens alone")
        return shapes

    def _install(self, function: Any) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        # A name that has no mask function gets no mask: the library returns None at once.
        ALL_ATTENTION_FUNCTIONS.register(self._name, function)
        self._use(self._name)

    def _use(self, implementation: str) -> None:
        for config in self._configs:
            config._attn_implementation = implementation

    def _attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """The attention function that the model's layers call.

        query: (1, H, T, D); key, value: (1, K, T, D). Returns (1, T, H, D of the values).
        """
        plan = self._plan
        assert plan is not None
        how = Scoring(
            scale=scaling,
            window=kwargs.get("sliding_window", getattr(module, "sliding_window", None)),
            softcap=softcap,
            sinks=s_aux,
        )
        layer = module.layer_idx
        out = attend(plan, self.cache, layer, how, query=query, key=key, value=value)
        return out.unsqueeze(0), None


def _fix_frequencies(model: Any, longest: int, *, device: torch.device) -> None:
    """Makes rotary frequencies those of the longest sequence, whatever a step holds.

    For the kinds `dynamic` and `longrope` the library sets them in every pass by its largest
    position: a text would depend on who shares its step, and on its own later growth.
    """
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        by_layer = kinds if isinstance(kinds, dict) else {None: kinds}
        if not {"dynamic", "longrope"} & set(by_layer.values()):
            continue
        last = torch.tensor([[longest - 1]], device=device)
        for layer_type in by_layer:
            options = {} if layer_type is None else {"layer_type": layer_type}
            module(torch.zeros(1, device=device), last, **options)
        module.forward = torch.no_grad()(MethodType(inspect.unwrap(type(module).forward), module))


def _attention_configs(model: Any) -> list[Any]:
    """The configs that its layers read the name of the attention function from.

    Of a model that sees, those of its text part: its vision tower attends as it always does.
    """
    has_vision = hasattr(model.config, "vision_config")
    top = model.config.get_text_config() if has_vision else model.config
    found = {id(top): top}
    for module in (model.get_decoder() if has_vision else model).modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_attn_implementation"):
            found[id(config)] = config
    return list(found.values())
