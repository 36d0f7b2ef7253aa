"""What a checkpoint is by its config: architecture, precision, format, context length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastchat.errors import UsageError
from fastchat.model.hub import Source, plain_errors
from fastchat.model.placement import Dtype

ENCODER_DECODERS = ("t5", "mt5", "umt5")
"""Kinds of models with an encoder and a decoder that are served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a checkpoint's config says."""

    config: Any
    is_causal: bool
    """False for an encoder."""
    has_vision: bool
    """A causal model that also reads pictures."""
    is_encoder_decoder: bool
    """An encoder that reads and a decoder that writes, as T5's."""
    is_classifier: bool
    """A sequence classifier, such as a cross-encoder; it generates nothing."""
    dtype: Dtype | None
    """In which the weights were saved, if it is one of the usual three."""
    quantization: str | None


def inspect(source: Source, name: str, *, trust_remote_code: bool = False) -> Kind:
    """Reads a checkpoint's config, and refuses what cannot be served.

    name: what the model is called in messages.
    Raises UsageError, naming the architecture or the format, or DataError for a broken file.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )

    with plain_errors(name):
        config = AutoConfig.from_pretrained(
            source.path, **source.arguments, trust_remote_code=trust_remote_code
        )
    architecture = ", ".join(getattr(config, "architectures", None) or [config.model_type])
    quantization = _quantization(config, name)
    is_pair = bool(getattr(config, "is_encoder_decoder", False))
    if is_pair and config.model_type not in ENCODER_DECODERS:
        raise UsageError(
            f"{name!r} is a {architecture}; of encoder-decoders those of "
            f"{', '.join(ENCODER_DECODERS)} are served"
        )
    is_decoder = architecture.endswith(("ForCausalLM", "LMHeadModel"))
    is_masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.is_decoder
    has_own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    is_classifier = architecture.endswith("ForSequenceClassification")
    is_causal = not (is_pair or is_classifier) and (is_decoder or not is_masked)
    seeing = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    has_vision = is_causal and getattr(seeing, "__name__", None) == architecture
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or has_own_code or has_vision
    if is_causal and not known:
        raise UsageError(
            f"{name!r} is a {architecture}; causal language models and encoders are served"
        )
    saved = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return Kind(
        config=config,
        is_causal=is_causal,
        has_vision=has_vision,
        is_encoder_decoder=is_pair,
        is_classifier=is_classifier,
        dtype=saved if saved in ("float32", "float16", "bfloat16") else None,
        quantization=quantization,
    )


def context_length(config: Any) -> int | None:
    """How many tokens a model of this config can attend to; None when it does not say.

    A position range that was stretched is recorded either before (`linear`, `dynamic`: the
    factor multiplies) or after stretching (`llama3`, `yarn`, ...). Where the original range is
    recorded as well, it tells which.
    """
    config = config.get_text_config()
    names = (
        "max_position_embeddings",
        "max_sequence_length",
        "seq_length",
        "max_seq_len",
        "model_max_length",
    )
    values = (getattr(config, name, None) for name in names)
    length = next((value for value in values if isinstance(value, int) and value > 0), None)
    if length is None:
        return None
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    factor = rope.get("factor")
    if not isinstance(factor, int | float):
        return length
    original = rope.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    if original:
        return max(length, int(original * factor))
    kind = rope.get("rope_type") or rope.get("type")
    return int(length * factor) if kind in ("linear", "dynamic") else length


def _quantization(config: Any, name: str) -> str | None:
    """The method by which a checkpoint is quantized; refuses one that nothing here reads.

    A format that transformers does not know would be loaded as if it were plain weights.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    record = getattr(config, "quantization_config", None)
    if record is None:
        return None
    if not isinstance(record, dict):
        record = record.to_dict()
    method = record.get("quant_method")
    if method is None and (record.get("load_in_8bit") or record.get("load_in_4bit")):
        return "bitsandbytes"
    if method not in {*AUTO_QUANTIZATION_CONFIG_MAPPING, "bitsandbytes"}:
        raise UsageError(
            f"{name!r} is quantized as {method!r}, which this engine cannot read; "
            "use an engine server that does, or another checkpoint of the model"
        )
    return method
