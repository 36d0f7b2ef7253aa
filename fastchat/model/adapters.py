"""What a PEFT adapter on disk is: its base, and the low-rank pairs it adds to a model's layers.

Read without the library peft: an adapter is served beside others in one batch, which takes its
numbers and nothing else of it (`engine/adapters.py`).
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastchat.errors import DataError, UnavailableError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

_PREFIX = "base_model.model."
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")

_CHANGES = {
    "use_dora": "it is a DoRA adapter",
    "modules_to_save": "it replaces whole layers (modules_to_save)",
    "trainable_token_indices": "it changes embeddings (trainable_token_indices)",
    "target_parameters": "it changes parameters that are no layers (target_parameters)",
    "layer_replication": "it repeats layers (layer_replication)",
    "alora_invocation_tokens": "it begins in the middle of a text (aLoRA)",
    "lora_bias": "it adds biases (lora_bias)",
    "use_bdlora": "it is block-diagonal (use_bdlora)",
    "arrow_config": "it routes between adapters (arrow_config)",
}
"""Fields of a LoRA config that mean more than a low-rank product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """What one layer's output gains: `scale * b @ a @ x`."""

    a: Tensor
    """(rank, in)"""
    b: Tensor
    """(out, rank)"""
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter in memory."""

    path: str
    """As it was asked for."""
    base: str
    """The model that it says it was trained on; may be empty."""
    layers: Mapping[str, LowRank]
    """By the name of the layer in the model."""

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max(len(layer.a) for layer in self.layers.values())


def is_adapter(path: str) -> bool:
    """Whether a local folder holds an adapter."""
    try:
        return (Path(path).expanduser() / CONFIG).is_file()
    except (OSError, RuntimeError, ValueError):
        return False


def find_adapter(path: str, *, revision: str = "main") -> Path:
    """The folder of an adapter, downloaded where it is the id of one on the hub.

    Raises UsageError when there is none, UnavailableError when the hub does not answer.
    """
    if is_adapter(path):
        return Path(path).expanduser()
    name = shown(path)
    if Path(path).expanduser().is_dir():
        raise UsageError(f"the folder {name!r} holds no {CONFIG}; it is no adapter")
    from fastchat.model.hub import locate

    arguments = locate(path, revision=revision).arguments
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            path,
            revision=revision,
            local_files_only=bool(arguments.get("local_files_only")),
            allow_patterns=[CONFIG, *WEIGHTS],
        )
    except Exception as error:  # of whichever HTTP library this version of the client stands on
        raise UnavailableError(f"the adapter {name!r} cannot be downloaded") from error
    if not is_adapter(folder):
        raise UsageError(f"{name!r} holds no {CONFIG}; it is no adapter")
    return Path(folder)


def base_of(folder: Path) -> str:
    """The path or hub id of the model that an adapter was trained on.

    Raises DataError when the adapter does not say, UsageError when it is an adapter itself.
    """
    base = _config(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise DataError(f"{CONFIG} of {folder.name!r} names no base_model_name_or_path")
    beside = folder / base
    if not Path(base).expanduser().is_dir() and beside.is_dir():
        base = str(beside)
    if is_adapter(base) or "peft" in shown(base).lower():
        raise UsageError(
            f"the base of adapter {folder.name!r} is the adapter {shown(base)!r}; "
            "merge that into its own base first (fastchat.model.apply_lora)"
        )
    return base


def read_adapter(folder: Path, *, path: str | None = None) -> Adapter:
    """An adapter's config and weights, in the precision they were saved in.

    Raises:
        UsageError: an adapter of a kind that cannot be mixed into a batch.
        DataError: its files are damaged or do not belong together.
    """
    config = _config(folder)
    name = folder.name
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UsageError(f"{name!r} is an adapter of the type {str(kind)[:40]}; LORA is served")
    if config.get("bias", "none") != "none":
        raise UsageError(f"the adapter {name!r} cannot be mixed into a batch: it changes biases")
    for field, reason in _CHANGES.items():
        if config.get(field):
            raise UsageError(f"the adapter {name!r} cannot be mixed into a batch: {reason}")
    tensors = _weights(folder)
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.endswith(".base_layer.weight"):
            continue  # peft saves the layer under an adapted head too, which was not trained
        match = _KEY.fullmatch(key.removeprefix(_PREFIX))
        if match is None:
            raise UsageError(
                f"the adapter {name!r} cannot be mixed into a batch: it holds {key[-120:]!r}, "
                "which is no low-rank product of a linear layer"
            )
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    if not sides:
        raise DataError(f"the adapter {name!r} holds no weights")
    layers = {module: _layer(config, name, module, pair) for module, pair in sides.items()}
    base = config.get("base_model_name_or_path")
    return Adapter(
        path=str(folder) if path is None else path,
        base=base if isinstance(base, str) else "",
        layers=layers,
    )


def shown(path: str) -> str:
    """What a path is called towards strangers: its last part."""
    return path.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1][:100]


def _layer(config: dict[str, Any], name: str, module: str, pair: dict[str, Tensor]) -> LowRank:
    """One layer's pair with its scale.

    The scale is alpha / rank, or alpha / sqrt(rank) with `use_rslora` (arXiv:2312.03732).
    """
    if len(pair) != 2 or any(t.dim() != 2 or not t.is_floating_point() for t in pair.values()):
        raise DataError(f"the adapter {name!r} is damaged: {module} lacks one of its two matrices")
    a, b = pair["A"], pair["B"]
    rank = len(a)
    if b.shape[1] != rank or not rank:
        raise DataError(
            f"the adapter {name!r} is damaged: the ranks of {module} are {rank} and {b.shape[1]}"
        )
    said = _of_layer(config.get("rank_pattern"), module, config.get("r", rank))
    if isinstance(said, bool) or said != rank:
        raise DataError(
            f"{CONFIG} of {name!r} gives {module} the rank {str(said)[:20]}, "
            f"and its weights have the rank {rank}"
        )
    if not bool(a.float().isfinite().all() and b.float().isfinite().all()):
        raise DataError(f"the adapter {name!r} is damaged: {module} holds no finite numbers")
    alpha = _alpha(_of_layer(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))
    if alpha is None:
        raise DataError(f"{CONFIG} of {name!r} holds no usable lora_alpha")
    return LowRank(a=a, b=b, scale=alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _alpha(value: object) -> float | None:
    """A `lora_alpha` as a finite number; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        alpha = float(value)
    except OverflowError:
        return None
    return alpha if math.isfinite(alpha) else None


def _of_layer(patterns: object, module: str, default: Any) -> Any:
    """What a pattern of the config says of a layer: its keys match the ends of names, as in peft.

    patterns: `alpha_pattern` or `rank_pattern`.
    """
    if isinstance(patterns, dict):
        for pattern, value in patterns.items():
            try:
                if re.fullmatch(rf"(.*\.)?({str(pattern).removeprefix('^')})", module):
                    return value
            except re.error as error:
                raise DataError(f"a pattern of the adapter is no expression: {error}") from None
    return default


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{CONFIG} of {folder.name!r} cannot be read") from error
    if not isinstance(content, dict):
        raise DataError(f"{CONFIG} of {folder.name!r} holds no JSON object")
    return content


def _weights(folder: Path) -> dict[str, Tensor]:
    """The tensors by name; pickled ones are read as tensors only."""
    from fastchat.model.hub import plain_errors

    name = folder.name
    with plain_errors(name, "adapter"):
        if (path := folder / WEIGHTS[0]).is_file():
            from safetensors.torch import load_file

            return load_file(path)
        if (path := folder / WEIGHTS[1]).is_file():
            import torch

            found = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(found, dict) and all(isinstance(v, torch.Tensor) for v in found.values()):
                return found
            raise DataError(f"the adapter {name!r} holds more than tensors")
    raise DataError(f"the folder {name!r} holds no {WEIGHTS[0]}")
