"""The model and the tokenizer to train, made to fit the examples."""

import math
from typing import TYPE_CHECKING, Any, Literal

from fastchat.errors import ModelError, UsageError
from fastchat.train.arguments import Arguments
from fastchat.train.attention import choose_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments


def load_tokenizer(arguments: Arguments) -> Any:
    """The tokenizer of the model, with a padding token even where it came without one.

    Padding is masked by position, so any token serves: the end mark if there is one.
    """
    from transformers import AutoTokenizer

    path = arguments.model.model_name_or_path
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path,
            cache_dir=arguments.fit.cache_dir,
            trust_remote_code=arguments.model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"no tokenizer can be loaded from {path}: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return tokenizer


def load_model(arguments: Arguments) -> "PreTrainedModel":
    """The model to train, its context as long as the examples may be.

    Under QLoRA its weights are in 4 bits, and every process has its own on its device.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from fastchat.train import short_attention

    if arguments.training.device.type == "cpu":
        short_attention.register()
    path = arguments.model.model_name_or_path
    common: dict[str, Any] = {
        "cache_dir": arguments.fit.cache_dir,
        "trust_remote_code": arguments.model.trust_remote_code,
    }
    how: dict[str, Any] = {"dtype": getattr(torch, arguments.model.model_dtype)}
    if (attention := choose_attention(arguments)) is not None:
        how["attn_implementation"] = attention
    if arguments.lora.q_lora:
        how["quantization_config"] = quantization("4", arguments.training)
        how["device_map"] = {"": arguments.training.device}
    is_seq2seq = arguments.preset.method == "seq2seq"
    auto = AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM
    try:
        config = AutoConfig.from_pretrained(path, **common)
        extend_context(config, arguments.fit.model_max_length, kind=arguments.model.rope_scaling)
        model: Any = auto.from_pretrained(path, config=config, **how, **common)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"the model {path} cannot be loaded: {error}") from error
    # Training needs no keys of earlier steps, and activations that are computed again must not
    # find those of the first time; the saved config says true.
    for part in model.modules():  # encoder and decoder have configs of their own
        if hasattr(getattr(part, "config", None), "use_cache"):
            part.config.use_cache = False
    if is_seq2seq:
        # Encoder and decoder hold the table of embeddings as one layer, not as layers that share a
        # weight: FSDP keeps a layer in one place, and saves it once.
        model.set_input_embeddings(model.get_input_embeddings())
        model.register_load_state_dict_pre_hook(_name_one_table)
    return model


def _name_one_table(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Gives the shared embeddings of a checkpoint their other two names, before it is loaded."""
    if (table := state.get(f"{prefix}shared.weight")) is not None:
        for side in ("encoder", "decoder"):
            state.setdefault(f"{prefix}{side}.embed_tokens.weight", table)


def quantization(bits: Literal["8", "4"], training: "TrainingArguments") -> Any:
    """How bitsandbytes packs weights: 8 bits, or 4 of NormalFloat with quantized scales.

    What is computed with them is in the precision of the training.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if bits == "8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def extend_context(config: Any, length: int, *, kind: str) -> None:
    """Makes a config with rotary positions reach `length` tokens.

    The factor is the published one, the length over the model's own, rounded up; a scaling
    that is already there is multiplied. The base frequency stays.
    """
    own = getattr(config, "max_position_embeddings", None)
    if not own or length <= own:
        return
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or "rope_type" not in rope:
        raise UsageError(
            f"--model_max_length {length} exceeds the {own} positions of this model, and its "
            f"kind of positions cannot be stretched; use at most {own}."
        )
    if kind != "none":
        factor = float(math.ceil(length / own)) * float(rope.get("factor") or 1.0)
        config.rope_parameters = {
            **rope,
            "rope_type": kind if rope["rope_type"] == "default" else rope["rope_type"],
            "factor": factor,
        }
        if config.rope_parameters["rope_type"] in ("yarn", "dynamic", "llama3", "longrope"):
            config.rope_parameters.setdefault("original_max_position_embeddings", own)
    config.max_position_embeddings = length


def add_tokens(tokenizer: Any, arguments: Arguments) -> int:
    """Adds the tokens that the method or the family needs; returns how many were new."""
    n_before = len(tokenizer)
    preset = arguments.preset
    if preset.method == "seq2seq":
        from fastchat.train.seq2seq import add_t5_tokens

        add_t5_tokens(tokenizer)
    if preset.tokens_of is not None:
        from fastchat.families.registry import registry

        family = registry().families[preset.tokens_of]
        end = family.tokenizer.get("eos_token")
        names = [*([str(end)] if end else []), *family.extra_tokens]
        tokenizer.add_tokens(names, special_tokens=True)
    return len(tokenizer) - n_before


def fit_vocabulary(
    model: "PreTrainedModel", tokenizer: Any, *, n_new: int = 0, keeps_rows: bool = False
) -> None:
    """Gives every token of the tokenizer a row of its own in the embeddings.

    A new token starts as the mean of the old ones, at the input and at the output.

    keeps_rows: leaves rows that the checkpoint has to spare as they are, for an adapter, which
    does not carry the embeddings along unless they have grown.
    """
    import torch

    embeddings: Any = model.get_input_embeddings()
    n_old = min(len(tokenizer) - (0 if keeps_rows else n_new), embeddings.num_embeddings)
    if len(tokenizer) == n_old:
        return
    if len(tokenizer) > embeddings.num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    layers: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    # Tied tables are one.
    tables = {layer.weight.data_ptr(): layer.weight for layer in layers if layer is not None}
    with torch.no_grad():
        for weight in tables.values():
            weight[n_old : len(tokenizer)] = weight[:n_old].mean(dim=0, keepdim=True)
