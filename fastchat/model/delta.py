"""Delta weights: what a fine-tuned model adds to its base, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastchat.errors import DataError
from fastchat.model.weight_files import (
    Checkpoint,
    Dtype,
    check_free,
    open_checkpoint,
    write_model,
)

if TYPE_CHECKING:
    import torch

DERIVED = "rotary_emb.inv_freq"
"""Tensors of old checkpoints that today's models compute: left out where one side lacks them."""


def apply_delta(
    base_model_path: str, target_model_path: str, delta_path: str, *, dtype: Dtype = "float16"
) -> Path:
    """Writes base plus delta to a new folder, with the delta's config and tokenizer.

    Raises:
        UsageError: a path is no model, or the target is there already.
        DataError: base and delta do not fit each other; nothing was written.
    """
    return _combine(
        base_model_path,
        delta_path,
        Path(target_model_path),
        combine=lambda base, delta: base + delta,
        dtype=dtype,
    )


def make_delta(
    base_model_path: str, target_model_path: str, delta_path: str, *, dtype: Dtype = "float16"
) -> Path:
    """Writes target minus base to the new folder `delta_path`, with the target's tokenizer.

    Raises:
        UsageError: a path is no model, or the delta is there already.
        DataError: base and target do not fit each other; nothing was written.
    """
    return _combine(
        base_model_path,
        target_model_path,
        Path(delta_path),
        combine=lambda base, target: target - base,
        dtype=dtype,
    )


def _combine(
    base_path: str,
    other_path: str,
    folder: Path,
    *,
    combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    dtype: Dtype,
) -> Path:
    """Writes `combine(base, other)` for every tensor, in the other's order."""
    check_free(folder)
    base, other = open_checkpoint(base_path), open_checkpoint(other_path)
    names = _common_names(base, other, names=(base_path, other_path))

    def combined() -> Iterator[tuple[str, torch.Tensor]]:
        with base.reader() as read_base, other.reader() as read_other:
            for name in names:
                mine, theirs = read_base(name), read_other(name)
                if not theirs.is_floating_point():
                    yield name, theirs
                    continue
                # In float32: the sum of two float16 numbers rounds once, when it is written.
                yield name, combine(mine.float(), theirs.float())

    write_model(combined(), folder, like=other.folder, dtype=dtype)
    return folder


def _common_names(base: Checkpoint, other: Checkpoint, *, names: tuple[str, str]) -> list[str]:
    """The tensors to combine; raises DataError unless both hold the same, in the same shapes."""
    mine, theirs = set(base.files), set(other.files)
    odd = sorted(name for name in mine ^ theirs if not name.endswith(DERIVED))
    if odd:
        holder = names[0] if odd[0] in mine else names[1]
        raise DataError(
            f"{len(odd)} tensors stand on one side only, the first {odd[0]!r} in {holder}: these "
            "are not the same kind of model; check the paths."
        )
    common = [name for name in other.files if name in mine]
    for name in common:
        shapes = base.shapes[name], other.shapes[name]
        if shapes[0] != shapes[1]:
            raise DataError(_shape_message(name, *shapes, names=names))
    return common


def _shape_message(
    name: str, base: tuple[int, ...], other: tuple[int, ...], *, names: tuple[str, str]
) -> str:
    what = f"{name} is {list(base)} in {names[0]} and {list(other)} in {names[1]}"
    if len(base) == 2 and base[1:] == other[1:]:
        return (
            f"{what}: their vocabularies differ by {abs(base[0] - other[0])}. A delta of the first "
            "release (v0, 32001 rows) was made against a base with a padding token added: use the "
            "v1.1 delta (32000 rows), or first resize the base's embeddings to the same number."
        )
    return f"{what}: the delta belongs to a base of another size; check the paths."
