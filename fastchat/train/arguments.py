"""The flags of the training commands: our own, transformers' own, and old names of those.

The published command lines were written for a transformers of 2023. `translate` rewrites
them for the one that is installed, with a line for every change that the caller may want to
know. It is a pure function of the words and of what the machine can do.
"""

import ast
import difflib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastchat.errors import UsageError

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(kw_only=True)
class ModelArguments:
    """Which model is trained."""

    model_name_or_path: str = field(
        default="facebook/opt-125m", metadata={"help": "Folder or hub id of the model to train."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run Python code that comes with the checkpoint."}
    )
    padding_side: Literal["right", "left"] = field(
        default="right", metadata={"help": "Side on which shorter examples of a batch are padded."}
    )
    conv_template: str = field(
        default="vicuna_v1.1", metadata={"help": "Template that conversations are written in."}
    )
    model_dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32",
        metadata={"help": "Precision of the trained weights; --bf16 only changes the arithmetic."},
    )
    rope_scaling: Literal["linear", "dynamic", "yarn", "none"] = field(
        default="linear",
        metadata={"help": "How positions are stretched when --model_max_length exceeds the model."},
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": "Attention: eager, sdpa, flash_attention_2; the default is chosen."},
    )


@dataclass(kw_only=True)
class DataArguments:
    """What it is trained on."""

    data_path: str | None = field(
        default=None, metadata={"help": "Conversations to learn from, JSON or JSON Lines."}
    )
    eval_data_path: str | None = field(
        default=None, metadata={"help": "Conversations to measure the loss on."}
    )
    lazy_preprocess: bool = field(
        default=False, metadata={"help": "Tokenize a conversation when it is needed."}
    )
    overlong: Literal["truncate", "drop"] = field(
        default="truncate",
        metadata={"help": "What becomes of a conversation longer than --model_max_length."},
    )
    max_masked_share: float = field(
        default=0.05,
        metadata={"help": "Stop when more than this share of the records has nothing to learn."},
    )


@dataclass(kw_only=True)
class FitArguments:
    """How it is trained, besides transformers' own TrainingArguments."""

    cache_dir: str | None = field(
        default=None, metadata={"help": "Where downloaded models are kept."}
    )
    model_max_length: int = field(
        default=512, metadata={"help": "Longest conversation in tokens; the rest is cut."}
    )
    muon_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Train the weight matrices with Muon at this rate, the rest with AdamW."},
    )
    global_batch_size: int | None = field(
        default=None, metadata={"help": "Conversations a step that are meant; warns when not so."}
    )


OWN_DEFAULTS: dict[str, Any] = {"optim": "adamw_torch"}
"""Defaults of TrainingArguments that the published commands set otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """All that a training command was told."""

    model: ModelArguments
    data: DataArguments
    fit: FitArguments
    training: "TrainingArguments"
    notes: tuple[str, ...] = ()
    """What was understood otherwise than written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the flags of numbers and processes may ask for here."""

    has_accelerator: bool
    has_bf16: bool
    has_tf32: bool
    has_deepspeed: bool
    n_processes: int


def parse(argv: Sequence[str] | None = None, *, prog: str) -> Arguments:
    """Reads the flags; `--help` prints them all and ends the process.

    Raises:
        UsageError: a flag or value that is not known.
        SystemExit: after `--help` (0) or when a value does not fit its flag (2).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        print(help_text(prog))
        raise SystemExit(0)
    words, notes = translate(words, this_machine())

    from transformers import HfArgumentParser, TrainingArguments

    parser = HfArgumentParser(
        [ModelArguments, DataArguments, FitArguments, TrainingArguments],  # pyright: ignore[reportArgumentType]
        prog=prog,
        allow_abbrev=False,
        add_help=False,
    )
    parser.set_defaults(**OWN_DEFAULTS)
    _refuse_unknown(words, [flag for a in parser._actions for flag in a.option_strings])
    try:
        model, data, fit, training = parser.parse_args_into_dataclasses(
            words, look_for_args_file=False
        )
    except (ValueError, ImportError, OSError) as error:
        raise UsageError(f"the training arguments cannot be used: {error}") from error
    return Arguments(model=model, data=data, fit=fit, training=training, notes=tuple(notes))


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
        has_deepspeed=importlib.util.find_spec("deepspeed") is not None,
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
    if "deepspeed" in flags and not machine.has_deepspeed:
        raise UsageError("--deepspeed needs the package deepspeed: pip install deepspeed.")
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


def _refuse_unknown(words: Sequence[str], known: Sequence[str]) -> None:
    """Raises UsageError for the first flag that nobody reads, with the nearest that is read."""
    for word in words:
        if word.startswith("--") and word not in known:
            near = difflib.get_close_matches(word, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; --help lists all flags."
            raise UsageError(f"unknown flag {word}{hint}")


def help_text(prog: str) -> str:
    """All flags with their defaults.

    Transformers' own are read from its source: importing it takes seconds.
    """
    lines = [f"usage: {prog} --model_name_or_path PATH --data_path FILE --output_dir DIR ...", ""]
    for cls in (ModelArguments, DataArguments, FitArguments):
        lines += [f"{(cls.__doc__ or '').strip()}"]
        for item in fields(cls):
            default = None if item.default is MISSING else item.default
            lines += _help_lines(item.name, default, item.metadata["help"])
        lines.append("")
    lines.append("Transformers' TrainingArguments:")
    for name, default, text in _training_flags():
        lines += _help_lines(name, OWN_DEFAULTS.get(name, default), text)
    lines += ["", "Accepted from older command lines:"]
    lines += [f"  --{old}  now --{new}" for old, new in RENAMED.items()]
    lines += ["  --warmup_ratio  now --warmup_steps, where a number below 1 is a share"]
    lines += ["  --fsdp_transformer_layer_cls_to_wrap, --fsdp_min_num_params  now in --fsdp_config"]
    lines += ["  --gradient_checkpointing  now --activation_checkpointing"]
    lines += ["  --group_by_length  now --train_sampling_strategy group_by_length"]
    lines += [f"  --{name}  not needed: {why}" for name, why in WITHOUT_EFFECT.items()]
    return "\n".join(lines)


def _help_lines(name: str, default: object, text: str) -> list[str]:
    """A flag's two lines on the help page."""
    shown = "" if default is None else f" (default: {default})"
    return [f"  --{name}", f"      {' '.join(text.split())}{shown}"]


def _training_flags() -> list[tuple[str, object, str]]:
    """Name, default and help of every field of TrainingArguments, without importing it."""
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        return []
    source = (Path(package.origin).parent / "training_args.py").read_text("utf-8")
    flags: list[tuple[str, object, str]] = []
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    for node in next((c.body for c in classes if c.name == "TrainingArguments"), []):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(keywords=keywords)):
                given = {word.arg: word.value for word in keywords}
                flags.append((name, _literal(given.get("default")), _help_of(given)))
            case _:
                pass
    return flags


def _literal(node: ast.expr | None) -> object:
    """The value of a constant, None where it is computed."""
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def _help_of(given: dict[str | None, ast.expr]) -> str:
    """The help text among the metadata of a field; parts that are computed are left out."""
    metadata = given.get("metadata")
    if not isinstance(metadata, ast.Dict):
        return ""
    for key, value in zip(metadata.keys, metadata.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == "help":
            texts = [n.value for n in ast.walk(value) if isinstance(n, ast.Constant)]
            return "".join(text for text in texts if isinstance(text, str)).replace("%%", "%")
    return ""
