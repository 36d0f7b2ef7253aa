"""From the data flags to what the trainer draws from: training and held-out examples.

`fit` calls `open_data` before the model is loaded, so that bad data costs nobody the wait.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastchat.data.records import read_records
from fastchat.errors import UsageError
from fastchat.train.arguments import Arguments
from fastchat.train.examples import (
    Collator,
    Example,
    Examples,
    Labeller,
    check_enough_to_learn,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fastchat.template import Template

logger = logging.getLogger(__name__)

Collate = Callable[[Sequence[Example]], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """All that the trainer needs to know of the data."""

    train: Examples
    held_out: Examples | None
    collate_for: Callable[["PreTrainedModel"], Collate]
    """Model -> what makes a batch of examples, in the form this model learns best from."""


def open_data(arguments: Arguments, tokenizer: Any, *, template: "Template") -> TrainingData:
    """The data that the flags name, once it is clear that there is enough to learn in it."""
    data = arguments.data
    if not data.data_path:
        raise UsageError("--data_path is missing: the conversations to learn from.")
    labeller = Labeller(tokenizer, template.render, max_length=arguments.fit.model_max_length)
    held_out = None
    train = _read(data.data_path, labeller, arguments)
    if data.eval_data_path:
        held_out = _read(data.eval_data_path, labeller, arguments)
    collator = Collator(pad_id=tokenizer.pad_token_id, padding_side=arguments.model.padding_side)
    return TrainingData(train=train, held_out=held_out, collate_for=lambda model: collator)


def _read(path: str, labeller: Labeller, arguments: Arguments) -> Examples:
    """The examples of a file."""
    examples = Examples(
        read_records(path),
        labeller,
        lazy=arguments.data.lazy_preprocess,
        drop_overlong=arguments.data.overlong == "drop",
    )
    check_enough_to_learn(examples, path=path, max_share=arguments.data.max_masked_share)
    if arguments.training.process_index == 0:
        logger.info(
            "read path=%s records=%d learned=%d dropped=%d cut=%d",
            path,
            examples.n_read,
            len(examples),
            examples.n_dropped,
            examples.n_cut,
        )
        for reason, n in sorted(examples.dropped.items()):
            logger.info("dropped records reason=%r n=%d", reason, n)
    return examples
