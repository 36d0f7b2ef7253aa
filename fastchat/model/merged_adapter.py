"""An adapter that becomes part of its base model.

So are those of models with an encoder and a decoder served; those of causal models are served
beside others (`adapters.py`).
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastchat.errors import DataError

PAIR_TASK = "SEQ_2_SEQ_LM"
"""What peft calls the task of a model with an encoder and a decoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairAdapter:
    """A folder with an adapter of a model with an encoder and a decoder."""

    path: str
    """It also holds the tokenizer with which the adapter was trained, if that is another."""
    base: str
    """Folder or hub id of its base."""

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer stands beside the adapter."""
        return (Path(self.path) / "tokenizer_config.json").is_file()


def pair_adapter(model_path: str) -> PairAdapter | None:
    """The adapter in a folder; None when there is none, or one of a causal model.

    Raises DataError when its description cannot be read, names no base, or one that is gone.
    """
    folder = Path(model_path).expanduser()
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text("utf-8"))
        task, base = config.get("task_type"), config.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"adapter_config.json of {model_path!r} cannot be read: {error}") from error
    if task != PAIR_TASK:
        return None
    if not isinstance(base, str) or not base:
        raise DataError(f"adapter_config.json of {model_path!r} does not name its base model")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise DataError(
            f"the adapter {model_path!r} was trained on {base}, which is not there; bring the base "
            "back, or name where it is as base_model_name_or_path in adapter_config.json"
        )
    return PairAdapter(path=str(folder), base=base)


def merged(model: Any, n_tokens: int | None, *, lora_path: str, base_path: str) -> Any:
    """The base model with an adapter added to its weights.

    n_tokens: size of the adapter's own tokenizer, for which the embeddings get rows; None where
    it brings none. Raises DataError when the adapter does not fit.
    """
    from peft import PeftModel

    if n_tokens is not None and n_tokens > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(n_tokens, mean_resizing=False)
    try:
        with warnings.catch_warnings():
            # peft asks transformers by a name that is about to change.
            warnings.simplefilter("ignore", FutureWarning)
            return PeftModel.from_pretrained(model, lora_path).merge_and_unload()
    except (RuntimeError, ValueError, KeyError) as error:
        raise DataError(f"the adapter {lora_path} does not fit {base_path}: {error}") from None
