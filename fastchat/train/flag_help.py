"""The help page of a training command: our flags, and those of the libraries.

A library's flags are read from its source: importing it takes seconds.
"""

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from fastchat.train.published_flags import RENAMED, WITHOUT_EFFECT


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A dataclass of flags in the source of a library."""

    title: str
    package: str
    file: str
    cls: str


TRANSFORMERS = Library(
    title="Transformers' TrainingArguments",
    package="transformers",
    file="training_args.py",
    cls="TrainingArguments",
)
TRL_DPO = Library(
    title="TRL's DPOConfig",
    package="trl",
    file="trainer/dpo_config.py",
    cls="DPOConfig",
)


def help_text(
    prog: str, groups: Sequence[type], *, library: Sequence[Library], defaults: Mapping[str, Any]
) -> str:
    """All flags with their defaults.

    groups: our dataclasses of flags; library: where the others are written, the later over the
    earlier; defaults: what this command sets otherwise.
    """
    lines = [f"usage: {prog} --model_name_or_path PATH --data_path FILE --output_dir DIR ...", ""]
    for cls in groups:
        lines += [f"{(cls.__doc__ or '').strip()}"]
        for item in fields(cls):
            default = None if item.default is MISSING else item.default
            if callable(item.default_factory):
                default = " ".join(item.default_factory())
            lines += _help_lines(item.name, defaults.get(item.name, default), item.metadata["help"])
        lines.append("")
    for source in library:
        lines.append(f"{source.title}:")
        for name, default, text in _flags_in(source):
            lines += _help_lines(name, defaults.get(name, default), text)
        lines.append("")
    lines += ["Accepted from older command lines:"]
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


def _flags_in(library: Library) -> list[tuple[str, object, str]]:
    """Name, default and help of every field of a library's dataclass, without importing it."""
    package = importlib.util.find_spec(library.package)
    if package is None or package.origin is None:
        return []
    source = (Path(package.origin).parent / library.file).read_text("utf-8")
    flags: list[tuple[str, object, str]] = []
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    for node in next((c.body for c in classes if c.name == library.cls), []):
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
