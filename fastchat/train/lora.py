"""Low-rank adapters on a model that stays as it was: LoRA, and QLoRA on 4-bit weights.

All of it is peft's; here the published flags become peft's settings, and an adapter whose start
was cut out of the base weights is written so that it fits the base as it was downloaded.
"""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastchat.errors import UsageError
from fastchat.train.arguments import Arguments
from fastchat.train.method_arguments import LoraArguments

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import PreTrainedModel, TrainingArguments

logger = logging.getLogger(__name__)

ADAPTER = "adapter_model.safetensors"

START = "start_of_adapter"
"""Folder, within the output folder, of an adapter as it was before the first step."""


def check(lora: LoraArguments, training: "TrainingArguments") -> list[str]:
    """Notes on what these flags mean together.

    Raises:
        UsageError: they do not fit each other, the launch or what is installed.
    """
    if lora.q_lora and not lora.lora:
        raise UsageError("--q_lora True needs an adapter to train: add --lora True.")
    if not lora.lora:
        return []
    if lora.lora_r < 1:
        raise UsageError(f"--lora_r {lora.lora_r} must be at least 1.")
    if lora.lora_weight_path and lora.lora_init != "default":
        raise UsageError("--lora_weight_path brings its own start; leave --lora_init out.")
    if lora.lora_init == "loftq" and training.device.type == "cpu":
        raise UsageError("--lora_init loftq is computed on a GPU; take default on the CPU.")
    if lora.lora_init == "loftq" and not lora.q_lora:
        raise UsageError("--lora_init loftq makes up for 4-bit weights: add --q_lora True.")
    if not lora.q_lora:
        return []
    if find_spec("bitsandbytes") is None:
        raise UsageError("--q_lora needs the package bitsandbytes: pip install fschat[qlora].")
    if moves_base(lora):
        raise UsageError(
            f"--lora_init {lora.lora_init} cuts its start out of whole weights; with --q_lora "
            "take loftq or default."
        )
    if training.fsdp or is_zero3(training):
        return ["FSDP and ZeRO-3 do not shard 4-bit weights; every process keeps all of them"]
    return []


def is_zero3(training: "TrainingArguments") -> bool:
    """Whether DeepSpeed spreads the weights themselves over the processes."""
    plugin = getattr(training, "deepspeed_plugin", None)
    return plugin is not None and plugin.zero_stage == 3


def adapt(
    model: "PreTrainedModel", arguments: Arguments, *, batches: "Callable[[], DataLoader[Any]]"
) -> Any:
    """The model with an adapter in its layers, which alone is trained: a PeftModel.

    batches: gives what `--lora_init eva` looks at.
    """
    from peft import PeftModel, get_peft_model

    lora = arguments.lora
    model = prepared_for_adapter(model, arguments)
    if lora.lora_weight_path:
        adapted = PeftModel.from_pretrained(model, lora.lora_weight_path, is_trainable=True)
    else:
        is_eva = lora.lora_init == "eva"
        settings = adapter_settings(model, arguments)
        adapted: Any = get_peft_model(model, settings, low_cpu_mem_usage=is_eva)
        if is_eva:
            from peft import initialize_lora_eva_weights

            initialize_lora_eva_weights(adapted, batches(), show_progress_bar=False)
        elif lora.lora_init == "loftq":
            from peft import replace_lora_weights_loftq

            path = arguments.model.model_name_or_path
            replace_lora_weights_loftq(adapted, model_path=path if Path(path).is_dir() else None)
    if arguments.training.process_index == 0:
        trained, total = adapted.get_nb_trainable_parameters()
        logger.info("adapter trains=%d of=%d share=%.4f", trained, total, trained / total)
    return adapted


def recomputes_activations(training: "TrainingArguments") -> bool:
    """Whether activations are computed again in the backward pass, by whoever does it."""
    fsdp = training.fsdp_config if isinstance(training.fsdp_config, dict) else {}
    return bool(training.activation_checkpointing or fsdp.get("activation_checkpointing"))


def prepared_for_adapter(model: "PreTrainedModel", arguments: Arguments) -> "PreTrainedModel":
    """The model below an adapter: frozen, its small layers in full precision under 4 bits."""
    from peft import prepare_model_for_kbit_training

    if arguments.lora.q_lora:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if recomputes_activations(arguments.training):
        # Recomputed layers need a gradient at their input, and the embeddings are frozen.
        model.enable_input_require_grads()
    return model


def adapter_settings(model: "PreTrainedModel", arguments: Arguments) -> Any:
    """peft's settings of the adapter that the flags describe.

    Raises:
        UsageError: no layer of the model has one of the names asked for.
    """
    from peft import EvaConfig, LoraConfig, TaskType

    lora = arguments.lora
    is_seq2seq = arguments.preset.method == "seq2seq"
    targets: Sequence[str] | str = lora.lora_target_modules
    if list(targets) == ["all-linear"]:
        targets = "all-linear"
    else:
        _refuse_absent(model, targets)
    return LoraConfig(
        r=lora.lora_r,
        lora_alpha=lora.lora_alpha,
        target_modules=targets,  # pyright: ignore[reportArgumentType]
        lora_dropout=lora.lora_dropout,
        bias=lora.lora_bias,
        # Without redistribution every layer keeps the rank that was asked for.
        eva_config=EvaConfig(rho=1.0) if lora.lora_init == "eva" else None,
        task_type=TaskType.SEQ_2_SEQ_LM if is_seq2seq else TaskType.CAUSAL_LM,
        init_lora_weights=True if lora.lora_init in ("default", "loftq") else lora.lora_init,
    )


def _refuse_absent(model: "PreTrainedModel", names: Sequence[str]) -> None:
    """Raises UsageError for a name that no layer ends in, with those that can be adapted."""
    import torch

    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
        or type(module).__name__ in ("Conv1D", "Linear4bit", "Linear8bitLt")
    }
    for name in names:
        if not any(path == name or path.endswith(f".{name}") for path, _ in model.named_modules()):
            raise UsageError(
                f"--lora_target_modules {name}: this model has no layer of that name; it has "
                f"{', '.join(sorted(linear))}."
            )


def moves_base(lora: LoraArguments) -> bool:
    """Whether the start of the adapter was taken out of the base weights."""
    return lora.lora and lora.lora_init in ("pissa", "olora")


def keep_start(model: Any, folder: Path) -> None:
    """Writes the adapter as it stands before the first step, once, for `fit_to_plain_base`.

    A run that is resumed starts where the first one did, whose file is left alone.
    """
    start = folder / START
    if not (start / ADAPTER).is_file():
        model.save_pretrained(str(start))


def fit_to_plain_base(folder: Path) -> None:
    """Rewrites a saved adapter so that it belongs to the base as it was downloaded.

    The start A0, B0 was taken out of the base: what was learned, B1 A1 - B0 A0, is one product of
    twice the rank, [B1, -B0] [A1; A0].
    """
    import torch
    from safetensors.torch import load_file, save_file

    learned, start = load_file(folder / ADAPTER), load_file(folder / START / ADAPTER)
    for name, matrix in learned.items():
        if ".lora_A." in name or ".lora_embedding_A" in name:
            learned[name] = torch.cat([matrix, start[name]], dim=0).contiguous()
        elif ".lora_B." in name or ".lora_embedding_B" in name:
            learned[name] = torch.cat([matrix, -start[name]], dim=1).contiguous()
    save_file(learned, folder / ADAPTER, metadata={"format": "pt"})
    config_path = folder / "adapter_config.json"
    config = json.loads(config_path.read_text("utf-8"))
    config |= {
        "init_lora_weights": True,
        "r": 2 * config["r"],
        "lora_alpha": 2 * config["lora_alpha"],
    }
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    shutil.rmtree(folder / START)
