"""Texts -> vectors, by the hidden states of a loaded model; for decoders and encoders alike.

A text's vector does not depend on who shares its batch: rows are padded on the right, where a
causal model cannot see it, and encoders get an attention mask. To be called in the thread
that owns the model, with the model's own attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastchat.engine.base import Embeddings
from fastchat.errors import OutOfRangeError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from fastchat.model.load import LoadedModel

BATCH_TOKENS = 4096
"""Tokens, padding included, that one pass computes, unless a single piece is longer."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a text that fits the context."""

    text: int
    """Which text."""
    ids: tuple[int, ...]


def embed_texts(loaded: LoadedModel, texts: Sequence[str | Sequence[int]]) -> Embeddings:
    """One L2-normalized vector per text: the mean over its tokens, or the first token's.

    texts: as text or as ids of this model. One that is longer than the context is computed in
    pieces, each weighing as much as it has tokens. The family says which pooling.
    Raises UsageError for a text without tokens, OutOfRangeError for an id that does not exist.
    """
    import torch

    ids = [_ids(loaded, text) for text in texts]
    limit = longest_piece(loaded)
    pieces = [
        _Piece(i, tuple(row[start : start + limit]))
        for i, row in enumerate(ids)
        for start in range(0, len(row), limit)
    ]
    is_pair = loaded.is_encoder_decoder
    model = loaded.model.get_encoder() if is_pair else loaded.model.base_model
    width = int(loaded.model.get_input_embeddings().weight.shape[1])
    sums = np.zeros((len(ids), width), dtype=np.float64)
    with torch.inference_mode():
        for batch in _batches(pieces):
            hidden = _hidden(loaded, model, batch)
            if hidden.shape[-1] != sums.shape[1]:
                sums = np.zeros((len(ids), hidden.shape[-1]), dtype=np.float64)
            for piece, states in zip(batch, hidden, strict=True):
                n = len(piece.ids)
                is_first = loaded.family.pooling == "cls"
                pooled = states[0] * n if is_first else states[:n].sum(0, dtype=torch.float64)
                sums[piece.text] += pooled.double().cpu().numpy()
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    vectors = (sums / np.maximum(norms, 1e-12)).astype(np.float32)
    return Embeddings(vectors=vectors, n_tokens=tuple(len(row) for row in ids))  # pyright: ignore[reportArgumentType]  # an array is rows of numbers


def _ids(loaded: LoadedModel, text: str | Sequence[int]) -> list[int]:
    """The tokens of a text, special ones included."""
    if isinstance(text, str):
        ids = loaded.encode(text) if loaded.can_generate else list(loaded.tokenizer(text).input_ids)
    else:
        ids = list(text)
    if not ids:
        raise UsageError("an input is empty; give at least one token", param="input")
    for token_id in ids:
        if not 0 <= token_id < loaded.vocab_size:
            raise OutOfRangeError(
                f"input holds the token id {token_id}; ids of this model are 0 to "
                f"{loaded.vocab_size - 1}",
                param="input",
            )
    return ids


def longest_piece(loaded: LoadedModel) -> int:
    """Tokens that one pass can take of one text."""
    if loaded.can_generate:
        return loaded.context_len
    limit = min(loaded.context_len, loaded.tokenizer.model_max_length)
    positions = getattr(
        getattr(loaded.model.base_model, "embeddings", None), "position_embeddings", None
    )
    # RoBERTa's positions begin after that of its padding.
    offset = getattr(positions, "padding_idx", None)
    return limit if offset is None else min(limit, loaded.context_len - offset - 1)


def _batches(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """The pieces, those of similar length together, so that little is padding."""
    batch: list[_Piece] = []
    for piece in sorted(pieces, key=lambda p: len(p.ids)):
        if batch and (len(batch) + 1) * len(piece.ids) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _hidden(loaded: LoadedModel, model: Any, batch: list[_Piece]) -> Tensor:
    """States of the last layer: (pieces, length, width)."""
    import torch

    length = max(len(piece.ids) for piece in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, piece in enumerate(batch):
        ids[i, : len(piece.ids)] = torch.tensor(piece.ids)
        mask[i, : len(piece.ids)] = 1
    arguments: dict[str, Any] = {}
    if loaded.is_encoder_decoder or not loaded.can_generate:
        arguments["attention_mask"] = mask.to(loaded.device)
    elif not getattr(loaded.model, "_is_stateful", False):
        arguments["use_cache"] = False
    output = model(input_ids=ids.to(loaded.device), **arguments)
    return output[0]
