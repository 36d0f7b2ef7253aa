"""What a local folder or file says about the model in it, before anything is loaded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fastchat.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The facts that decide how a local model is loaded."""

    model_type: str | None = None
    """From `config.json`; `gguf` for a `.gguf` file."""
    quantization: str | None = None
    """The method with which the weights are quantized, like `gptq`."""
    gguf_path: Path | None = None
    is_adapter: bool = False
    """Whether these are the weights of a PEFT adapter."""
    base_path: str | None = None
    """Where an adapter says its base model is."""


def inspect_checkpoint(model_path: str) -> Checkpoint | None:
    """The facts of a local model; None when the path is not one, but the name of a remote one.

    Raises DataError when a configuration file cannot be read.
    """
    try:
        path = Path(model_path).expanduser()
        is_folder = path.is_dir()
        if path.suffix == ".gguf" and path.is_file():
            return Checkpoint(model_type="gguf", gguf_path=path)
    except (OSError, RuntimeError):  # too long for a path, or the home of nobody
        return None
    if not is_folder:
        return None
    if (adapter := path / "adapter_config.json").is_file():
        base = _read_object(adapter).get("base_model_name_or_path")
        return Checkpoint(is_adapter=True, base_path=base if isinstance(base, str) else None)
    if (config_path := path / "config.json").is_file():
        config = _read_object(config_path)
        model_type = config.get("model_type")
        quantization: Any = config.get("quantization_config") or {}
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        return Checkpoint(
            model_type=model_type if isinstance(model_type, str) else None,
            quantization=method if isinstance(method, str) else None,
        )
    if len(files := sorted(path.glob("*.gguf"))) == 1:
        return Checkpoint(model_type="gguf", gguf_path=files[0])
    return Checkpoint()


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a configuration file."""
    try:
        content: object = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} of the model cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path.name} of the model holds no JSON object")
    return cast(dict[str, Any], content)
