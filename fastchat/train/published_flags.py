"""Old names and forms of training flags -> those that the installed transformers reads.

The published command lines were written for a transformers of 2023. `translate` rewrites
them for the one that is installed, with a line for every change that the caller may want to
know. It is a pure function of the words and of what the machine can do.
"""

import importlib.util
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastchat.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the flags of numbers and processes may ask for here."""

    has_accelerator: bool
    has_bf16: bool
    has_tf32: bool
    n_processes: int


def this_machine() -> Machine:
    """What is here, asked of torch."""
    import torch

    cuda = torch.cuda.is_available()
    others = [getattr(torch, name, None) for name in ("xpu", "npu")]
    return Machine(
        has_accelerator=cuda
        or torch.backends.mps.is_available()
        or any(device is not None and device.is_available() for device in others),
        has_bf16=cuda and torch.cuda.is_bf16_supported(),
        has_tf32=cuda and torch.cuda.get_device_capability()[0] >= 8,
        n_processes=int(os.environ.get("WORLD_SIZE", "1")),
    )


RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""Flags that only changed their name."""

WITHOUT_EFFECT = {
    "overwrite_output_dir": "the output folder is always written to",
    "save_safetensors": "weights are always saved as safetensors",
    "use_mps_device": "the accelerator is found by itself",
    "local_rank": "torchrun tells the rank",
}
"""Flags of old whose meaning is a matter of course today."""


def translate(argv: Sequence[str], machine: Machine) -> tuple[list[str], list[str]]:
    """The command line for today's transformers, and notes on what was changed."""
    flags = _flags(argv)
    notes: list[str] = []
    for old, new in RENAMED.items():
        if old in flags:
            flags.setdefault(new, flags.pop(old))
    for name, why in WITHOUT_EFFECT.items():
        if flags.pop(name, None) is not None:
            notes.append(f"--{name} is not needed: {why}")
    if (values := flags.pop("group_by_length", None)) is not None and _is_true(values):
        flags.setdefault("train_sampling_strategy", ["group_by_length"])
    if (values := flags.pop("logging_dir", None)) is not None:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", values[0] if values else "")
    _translate_warmup(flags)
    _translate_fsdp(flags, machine, notes)
    _translate_precision(flags, machine, notes)
    words: list[str] = []
    for name, values in flags.items():
        words += [f"--{name}", *values]
    return words, notes


def _flags(argv: Sequence[str]) -> dict[str, list[str]]:
    """Flag -> its values, in the order written; the last of repeated flags counts."""
    flags: dict[str, list[str]] = {}
    values: list[str] | None = None
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            flags.pop(name, None)
            values = flags[name] = [value] if equals else []
        elif values is None:
            raise UsageError(f"{word!r} belongs to no flag; every argument is --name value.")
        elif word.strip():
            values.append(word)
    return flags


def _is_true(values: Sequence[str]) -> bool:
    """What a boolean flag says; without a value it says yes."""
    return not values or values[0].lower() in ("true", "t", "yes", "y", "1")


def _translate_warmup(flags: dict[str, list[str]]) -> None:
    """`--warmup_ratio 0.03` -> `--warmup_steps 0.03`: below 1 it is a share of all steps."""
    if (values := flags.pop("warmup_ratio", None)) is None:
        return
    try:
        ratio = float(values[0])
    except (IndexError, ValueError):
        raise UsageError(f"--warmup_ratio {' '.join(values)} is not a number.") from None
    if not 0 <= ratio < 1:
        raise UsageError(f"--warmup_ratio {values[0]} must be at least 0 and below 1.")
    # As of old, a count of steps wins over a share.
    if float((flags.get("warmup_steps") or ["0"])[0]) == 0:
        flags["warmup_steps"] = [values[0]]


def _translate_fsdp(flags: dict[str, list[str]], machine: Machine, notes: list[str]) -> None:
    """The words of `--fsdp` and the flags beside it -> `--fsdp True --fsdp_config {...}`."""
    values = flags.pop("fsdp", None)
    layers = flags.pop("fsdp_transformer_layer_cls_to_wrap", None)
    min_params = flags.pop("fsdp_min_num_params", None)
    checkpointing = flags.pop("gradient_checkpointing", None)
    if checkpointing is not None:
        flags.setdefault(
            "activation_checkpointing", ["True" if _is_true(checkpointing) else "False"]
        )
    words = " ".join(values or []).split()
    if values is None or [word.lower() for word in words] in (["false"], ["none"]):
        flags.pop("fsdp_config", None)
        return
    if machine.n_processes == 1:
        notes.append("--fsdp shards over processes and this is one; training without it")
        flags.pop("fsdp_config", None)
        return
    config = _fsdp_config(flags.pop("fsdp_config", None))
    for word in words:
        match word.lower():
            case "full_shard" | "hybrid_shard":
                config.setdefault("reshard_after_forward", True)
            case "shard_grad_op" | "hybrid_shard_zero2":
                config.setdefault("reshard_after_forward", False)
            case "auto_wrap":
                config.setdefault("auto_wrap_policy", "TRANSFORMER_BASED_WRAP")
            case "offload":
                config.setdefault("cpu_offload", True)
            case "true":
                pass
            case _:
                raise UsageError(
                    f"--fsdp does not know {word!r}; it takes full_shard or shard_grad_op, "
                    "auto_wrap and offload."
                )
    config.setdefault("version", 2)
    if layers:
        config["transformer_layer_cls_to_wrap"] = [
            name for value in layers for name in re.split(r"[\s,]+", value) if name
        ]
    if min_params and int(min_params[0]):
        config |= {"auto_wrap_policy": "SIZE_BASED_WRAP", "min_num_params": int(min_params[0])}
    if _is_true(flags.get("activation_checkpointing", ["False"])):
        del flags["activation_checkpointing"]
        config["activation_checkpointing"] = True
    flags["fsdp"] = []  # bare: the text "True" would be taken for an old option
    flags["fsdp_config"] = [json.dumps(config)]


def _fsdp_config(values: Sequence[str] | None) -> dict[str, Any]:
    """The settings given by `--fsdp_config`, a JSON file or JSON itself."""
    if not values:
        return {}
    text = " ".join(values)
    try:
        config = json.loads(text if text.startswith("{") else Path(text).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--fsdp_config {text} cannot be read: {error}") from None
    return {name.removeprefix("fsdp_"): value for name, value in config.items()}


def _translate_precision(flags: dict[str, list[str]], machine: Machine, notes: list[str]) -> None:
    """Takes back what this machine's arithmetic cannot do, and says so."""
    if "tf32" in flags and not machine.has_tf32 and _is_true(flags.pop("tf32")):
        notes.append("--tf32 needs an Ampere GPU or a later one; training without it")
    on_cpu = not machine.has_accelerator or _is_true(flags.get("use_cpu", ["False"]))
    if "fp16" in flags and on_cpu and _is_true(flags["fp16"]):
        del flags["fp16"]
        notes.append("--fp16 needs an accelerator; training in float32")
    if _is_true(flags.get("bf16", ["False"])):
        if not machine.has_accelerator:
            flags["use_cpu"] = ["True"]
            notes.append("no accelerator here: bf16 on the CPU")
        elif not on_cpu and not machine.has_bf16:
            raise UsageError("--bf16 needs a GPU that computes in bfloat16; use --fp16 True.")
    elif not machine.has_accelerator:
        flags["use_cpu"] = ["True"]


def refuse_missing_packages(words: Sequence[str]) -> None:
    """Raises UsageError for a value that asks for a package that is not installed."""
    flags = _flags(words)
    needs: list[tuple[str, str]] = []
    if "deepspeed" in flags:
        needs.append(("--deepspeed", "deepspeed"))
    if _is_true(flags.get("use_liger_kernel", ["False"])):
        needs.append(("--use_liger_kernel", "liger_kernel"))
    for value in flags.get("optim", []):
        if value in TORCHAO_OPTIMIZERS:
            needs.append((f"--optim {value}", "torchao"))
        elif "8bit" in value or value.startswith("paged_") or value.endswith("_bnb"):
            needs.append((f"--optim {value}", "bitsandbytes"))
    for value in flags.get("report_to", []):
        if package := REPORTERS.get(value):
            needs.append((f"--report_to {value}", package))
    for flag, package in needs:
        if importlib.util.find_spec(package) is None:
            name = package.replace("_", "-")
            raise UsageError(f"{flag} needs the package {name}: pip install {name}.")


TORCHAO_OPTIMIZERS = ("adamw_torch_4bit", "adamw_torch_8bit")
REPORTERS = {
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "comet_ml": "comet_ml",
    "swanlab": "swanlab",
    "clearml": "clearml",
}
"""Where the course of a training is shown, and the package that does it."""
