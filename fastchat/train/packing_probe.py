"""Whether a model keeps packed conversations apart, found out by asking it.

Two short rows of random ids are run apart, packed, and run together as if they were one. Only a
model whose packed answers are those of the rows apart may be trained on packed rows: some have
no positions to begin anew (ALiBi), some carry a state from token to token (Mamba).
"""

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from fastchat.train import segment_attention
from fastchat.train.examples import Example
from fastchat.train.packing import COUNTS, Collator, Layout

logger = logging.getLogger(__name__)

LENGTHS = (5, 4)


def packed_layout(model: PreTrainedModel) -> Layout | None:
    """The layout of packed batches that this model keeps apart, the quickest first.

    May change the model's attention to one of the same results that works on bounds.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        return None
    if "position_ids" not in inspect.signature(_causal(model).forward).parameters:
        return None
    own = str(getattr(model.config, "_attn_implementation", "eager"))
    if "flash" in own:
        return "flat" if keeps_apart(model, "flat") else None
    if own == "sdpa":
        segment_attention.register()
        try:
            _causal(model).set_attn_implementation(segment_attention.NAME)
            if keeps_apart(model, "flat"):
                return "flat"
        except (ValueError, AttributeError) as error:
            logger.debug("attention by segments cannot be set error=%s", error)
        _causal(model).set_attn_implementation(own)
    return "rows" if keeps_apart(model, "rows") else None


def keeps_apart(model: PreTrainedModel, layout: Layout) -> bool:
    """Whether the model's logits in this layout are those of the conversations apart."""
    rng = np.random.default_rng(0)
    n_ids = int(model.get_input_embeddings().weight.shape[0])  # pyright: ignore
    rows = [rng.integers(0, n_ids, n).astype(np.int32) for n in LENGTHS]
    examples = [Example(input_ids=row, labels=row) for row in rows]
    joined = np.concatenate(rows)
    collate = Collator(pad_id=0, layout=layout)
    with _quiet(model), torch.no_grad():
        try:
            apart = torch.cat([_logits(model, Collator(pad_id=0)([one])) for one in examples])
            packed = _logits(model, collate([tuple(examples)]))
            mixed = _logits(model, Collator(pad_id=0)([Example(input_ids=joined, labels=joined)]))
        except (RuntimeError, TypeError, ValueError, NotImplementedError, ImportError) as error:
            logger.debug("packing was tried in vain layout=%s error=%s", layout, error)
            return False
    # The second row only: nothing stands before the first.
    wrong = (mixed - apart)[LENGTHS[0] :].abs().max()
    off = (packed - apart).abs().max()
    return bool(wrong > 0) and bool(off <= 0.05 * wrong)


def _logits(model: PreTrainedModel, batch: dict[str, Any]) -> torch.Tensor:
    """(length, vocabulary) of a batch of one row."""
    inputs = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
        if name not in (COUNTS, "labels")
    }
    return model(**inputs).logits[0].float()


def _causal(model: PreTrainedModel) -> PreTrainedModel:
    """The model under its adapters."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model  # pyright: ignore[reportReturnType]


@contextmanager
def _quiet(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout, and with the generator of random numbers as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        model.train(was_training)
