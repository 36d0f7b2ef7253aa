"""Pairs of texts -> how well they fit, by a cross-encoder: a model with one number as its head.

The number goes through a logistic function, as cross-encoders are trained to have it. A pair's
score does not depend on who shares its batch: rows are padded on the right under a mask. To be
called in the thread that owns the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fastchat.engine.embedding import longest_piece
from fastchat.errors import UsageError

if TYPE_CHECKING:
    from fastchat.model.load import LoadedModel

BATCH_TOKENS = 4096
"""Tokens, padding included, that one pass computes, unless a single pair is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One number in 0..1 per pair."""

    values: tuple[float, ...]
    n_tokens: tuple[int, ...]
    """Tokens of each pair."""


class Scorer(Protocol):
    """An engine with the ability `score`."""

    async def score(self, pairs: Sequence[tuple[str, str]]) -> Scores:
        """How well the second text of each pair fits the first."""
        ...


@dataclass(frozen=True, slots=True)
class _Row:
    """A pair as the model reads it."""

    place: int
    ids: list[int]
    types: list[int]
    """Which of the two texts each token is of."""


def score_pairs(loaded: LoadedModel, pairs: Sequence[tuple[str, str]]) -> Scores:
    """How well the second text of each pair fits the first.

    A second text that is too long is cut at its end. Raises UsageError where the first leaves no
    room for any of it.
    """
    import torch

    rows = [_row(loaded, i, *pair) for i, pair in enumerate(pairs)]
    values = [0.0] * len(rows)
    batch: list[_Row] = []
    most = BATCH_TOKENS if loaded.model.config.pad_token_id is not None else 0
    with torch.inference_mode():
        for row in [*sorted(rows, key=lambda r: len(r.ids)), None]:
            is_full = row is None or (len(batch) + 1) * len(row.ids) > most
            if batch and is_full:
                for one, value in zip(batch, _forward(loaded, batch), strict=True):
                    values[one.place] = value
                batch = []
            if row is not None:
                batch.append(row)
    return Scores(values=tuple(values), n_tokens=tuple(len(row.ids) for row in rows))


def _row(loaded: LoadedModel, place: int, first: str, second: str) -> _Row:
    tokenizer, limit = loaded.tokenizer, longest_piece(loaded)
    n_first = len(tokenizer(first, add_special_tokens=False).input_ids)
    room = limit - n_first - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 1:
        raise UsageError(
            f"the query has {n_first} tokens, which leaves no room for a document in this "
            f"model's context of {limit}; shorten it",
            param="query",
        )
    made = tokenizer(first, second, truncation="only_second", max_length=limit)
    types = made.get("token_type_ids") or [0] * len(made.input_ids)
    return _Row(place, list(made.input_ids), list(types))


def _forward(loaded: LoadedModel, batch: Sequence[_Row]) -> list[float]:
    """The scores of rows that are computed together."""
    import torch

    length = max(len(row.ids) for row in batch)
    pad = loaded.model.config.pad_token_id or 0
    ids = torch.full((len(batch), length), pad, dtype=torch.long)
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, row in enumerate(batch):
        n = len(row.ids)
        ids[i, :n] = torch.tensor(row.ids)
        types[i, :n] = torch.tensor(row.types)
        mask[i, :n] = 1
    arguments: dict[str, Any] = {"attention_mask": mask.to(loaded.device)}
    if getattr(loaded.model.config, "type_vocab_size", 0) > 1:
        arguments["token_type_ids"] = types.to(loaded.device)
    logits = loaded.model(input_ids=ids.to(loaded.device), **arguments).logits
    return torch.sigmoid(logits[:, 0].double()).cpu().tolist()
