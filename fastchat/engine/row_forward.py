"""A model's own way to compute prompts and then token after token, for rows side by side.

What `groups.py` needs of a model: fill a cache, add a token to every row, take rows out.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastchat.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from fastchat.model.load import LoadedModel

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class RowCache:
    """The cache of some rows that are computed together."""

    cache: Any = None
    mask: Any = None
    """(R, length) of ones, zeros over padding; None for a stateful model."""
    length: int = 0
    """Tokens of each row in the cache, padding included."""
    n_real: list[int] = field(default_factory=list)
    """The same without padding, by row."""


class RowForward:
    """A model's own way to compute prompts and then token after token."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._device = loaded.device
        self._context_len = loaded.context_len
        self._is_stateful = bool(getattr(loaded.model, "_is_stateful", False))
        self.can_pad = False
        """Whether rows of different lengths may be computed together."""
        parameters = inspect.signature(loaded.model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._can_trim = "logits_to_keep" in parameters
        self._cache_name = "cache_params" if "cache_params" in parameters else "past_key_values"

    def prepare(self) -> None:
        """Finds out what the model can do.

        Raises UsageError when rows cannot be taken out of its cache.
        """
        from transformers import Cache

        rows = RowCache()
        self.prefill(rows, [(1, 2, 3), (3, 2, 1)], wants_all=False)
        if not isinstance(rows.cache, Cache):
            raise UsageError(
                f"a {type(self._model).__name__} keeps its state in a way that no engine here can "
                "share between requests; serve it with an engine of its own"
            )
        self.can_pad = not self._is_stateful and self._pads_exactly()
        logger.info("groups of %s prompts", "any" if self.can_pad else "equally long")

    def prefill(self, rows: RowCache, prompts: list[tuple[int, ...]], *, wants_all: bool) -> Tensor:
        """Fills the cache; logits (prompts, length, V), or (prompts, 1, V) of the last."""
        import torch

        longest = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, longest - len(prompt) :] = torch.tensor(prompt)
            mask[i, longest - len(prompt) :] = 1
        rows.mask = None if self._is_stateful else mask.to(self._device)
        rows.length = longest
        rows.n_real = [len(prompt) for prompt in prompts]
        arguments: dict[str, Any] = {}
        if self._can_trim and not wants_all:
            arguments["logits_to_keep"] = 1
        if self._takes_positions and not self._is_stateful:
            arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp_(min=0).to(self._device)
        return self._compute(rows, ids, **arguments)

    def decode(self, rows: RowCache, token_ids: list[int]) -> Tensor:
        """Adds one token to every row; logits (R, V)."""
        import torch

        arguments: dict[str, Any] = {}
        if rows.mask is not None:
            rows.mask = torch.nn.functional.pad(rows.mask, (0, 1), value=1)
        if self._takes_positions and not self._is_stateful:
            arguments["position_ids"] = torch.tensor(rows.n_real, device=self._device)[:, None]
        rows.length += 1
        rows.n_real = [n + 1 for n in rows.n_real]
        return self._compute(rows, torch.tensor(token_ids)[:, None], **arguments)[:, -1]

    def select(self, rows: RowCache, places: list[int]) -> None:
        """Makes the rows at `places`, which may repeat, the rows of the cache."""
        import torch

        index = torch.tensor(places, device=self._device)
        rows.cache.reorder_cache(index)
        if rows.mask is not None:
            rows.mask = rows.mask[index]
        rows.n_real = [rows.n_real[i] for i in places]

    def _compute(self, rows: RowCache, ids: Tensor, **arguments: Any) -> Tensor:
        import torch

        if rows.mask is not None:
            arguments["attention_mask"] = rows.mask
        if rows.cache is not None:
            arguments[self._cache_name] = rows.cache
        with torch.inference_mode():
            output = self._model(input_ids=ids.to(self._device), use_cache=True, **arguments)
        rows.cache = getattr(output, self._cache_name)
        return output.logits

    def _pads_exactly(self) -> bool:
        """Whether a padded row gives the logits it gives alone."""
        import torch

        n = min(9, self._context_len // 2)
        short, long = tuple(range(1, n + 1)), tuple(range(1, 2 * n))
        alone, together = RowCache(), RowCache()
        pairs = [
            (
                self.prefill(alone, [short], wants_all=False)[0, -1],
                self.prefill(together, [short, long], wants_all=False)[0, -1],
            ),
            (self.decode(alone, [5])[0], self.decode(together, [5, 6])[0]),
        ]
        scale = 1e-3 if pairs[0][0].dtype == torch.float32 else 5e-2
        return all(
            bool((one - two).abs().max() <= scale * one.abs().max().clamp_min(1e-6))
            for one, two in pairs
        )
