"""Merges an adapter into its base model.

python3 -m fastchat.model.apply_lora --base ~/llama-7b --lora ~/vicuna-lora --target ~/vicuna
"""

import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastchat import logs
from fastchat.errors import DataError, ModelError, UsageError
from fastchat.model.merged_adapter import PAIR_TASK, merged
from fastchat.settings import alias, run_command

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyLoraSettings:
    """Merges a LoRA adapter into its base model and saves the whole."""

    base_model_path: Annotated[str, alias("--base")] = tyro.MISSING
    """Folder or hub id of the model that the adapter was trained on."""
    target_model_path: Annotated[str, alias("--target")] = tyro.MISSING
    """Folder to write."""
    lora_path: Annotated[str, alias("--lora")] = tyro.MISSING
    """Folder or hub id of the adapter."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Precision of the merged weights."""
    trust_remote_code: bool = False
    """Run Python code that comes with the base. Off unless you trust its author."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    logs.setup()
    return run_command(ApplyLoraSettings, _run, argv, prog="python3 -m fastchat.model.apply_lora")


def _run(settings: ApplyLoraSettings) -> None:
    apply_lora(
        settings.base_model_path,
        settings.target_model_path,
        lora_path=settings.lora_path,
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
    )


def apply_lora(
    base_model_path: str,
    target_model_path: str,
    *,
    lora_path: str,
    dtype: Literal["float16", "bfloat16", "float32"] = "float16",
    trust_remote_code: bool = False,
) -> Path:
    """Writes base plus adapter to a folder, which appears under its name once it is whole.

    The tokenizer is the adapter's where it brings one, else the base's.

    Raises:
        UsageError: the target is there already and holds something.
        DataError: the adapter is none, or does not fit the base.
        ModelError: the base cannot be loaded.
    """
    import torch
    from peft import PeftConfig

    target = Path(target_model_path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"--target {target} is there already; name an empty or a new folder.")
    try:
        config = PeftConfig.from_pretrained(lora_path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{lora_path} holds no adapter (adapter_config.json): {error}") from None
    model = _load_base(
        base_model_path,
        task=str(config.task_type),
        dtype=getattr(torch, dtype),
        trust_remote_code=trust_remote_code,
    )
    tokenizer, is_adapters = _tokenizer(base_model_path, lora_path)
    whole = merged(
        model,
        len(tokenizer) if is_adapters else None,
        lora_path=lora_path,
        base_path=base_model_path,
    )
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    whole.save_pretrained(part)
    _write_tokenizer(tokenizer, Path(lora_path if is_adapters else base_model_path), part)
    if target.exists():
        target.rmdir()
    part.rename(target)
    logger.info("merged base=%s adapter=%s folder=%s", base_model_path, lora_path, target)
    return target


def _load_base(path: str, *, task: str, dtype: Any, trust_remote_code: bool) -> Any:
    """The model that the adapter was trained on."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto = AutoModelForSeq2SeqLM if task.endswith(PAIR_TASK) else AutoModelForCausalLM
    try:
        return auto.from_pretrained(path, dtype=dtype, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"the base model {path} cannot be loaded: {error}") from error


def _tokenizer(base_model_path: str, lora_path: str) -> tuple[Any, bool]:
    """The tokenizer to save, and whether it is the adapter's."""
    from transformers import AutoTokenizer

    is_adapters = (Path(lora_path) / "tokenizer_config.json").is_file()
    path = lora_path if is_adapters else base_model_path
    try:
        return AutoTokenizer.from_pretrained(path), is_adapters
    except (OSError, ValueError) as error:
        raise ModelError(f"no tokenizer can be loaded from {path}: {error}") from error


def _write_tokenizer(tokenizer: Any, source: Path, folder: Path) -> None:
    """Saves a tokenizer; files that are here are copied, since some change when written anew."""
    tokenizer.save_pretrained(folder)
    if not source.is_dir():
        return
    for path in folder.iterdir():
        is_weights = path.name.endswith((".safetensors", ".index.json"))
        if path.name in ("config.json", "generation_config.json") or is_weights:
            continue
        if (source / path.name).is_file():
            shutil.copyfile(source / path.name, path)
    for name in ("tokenizer.model", "spiece.model", "chat_template.jinja"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


if __name__ == "__main__":
    sys.exit(main())
