"""The weights in a model's folder, tensor by tensor: read by name, written in parts.

Knows safetensors and PyTorch's `.bin`, and no model: a checkpoint of any size passes through in
the memory of its largest tensor and one part.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastchat.errors import DataError, UsageError
from fastchat.model.hub import locate, plain_errors

if TYPE_CHECKING:
    import torch

Dtype = Literal["float16", "bfloat16", "float32"]

PART_BYTES = 4 * 1024**3
"""Largest part of a written checkpoint, unless one tensor alone is larger."""

INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".index.json", ".pt", ".pth", ".h5", ".msgpack", ".gguf")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of one folder, by name; none is in memory."""

    folder: Path
    files: dict[str, Path]
    """The file that holds each tensor, file after file."""
    shapes: dict[str, tuple[int, ...]]

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor with its name, in the order of the files."""
        with self.reader() as read:
            for name in self.files:
                yield name, read(name)

    def reader(self) -> AbstractContextManager[Callable[[str], torch.Tensor]]:
        """A call that reads one tensor by name; only files in use are open."""
        return _reading(self.files)


def open_checkpoint(path: str, *, revision: str = "main") -> Checkpoint:
    """The weights of a folder or hub model.

    Raises:
        UsageError: the path is neither.
        DataError: it holds no weights, or damaged ones.
        UnavailableError: the hub is needed and cannot be reached.
    """
    folder = folder_of(path, revision=revision)
    paths = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    paths = [file for file in paths if file.name != "training_args.bin"]
    if not paths:
        raise DataError(f"{path} holds no weights (*.safetensors or *.bin).")
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in paths:
        with plain_errors(file.name, "weights"):
            for name, shape in _shapes(file).items():
                if name in files:
                    twice = f"{files[name].name} and in {file.name}"
                    raise DataError(f"{path}: the tensor {name} stands in {twice}.")
                files[name], shapes[name] = file, shape
    _check_index(folder, files)
    return Checkpoint(folder, files, shapes)


def folder_of(path: str, *, revision: str = "main") -> Path:
    """The folder of a model's files, downloaded where it is on a hub."""
    source = locate(path, revision=revision)
    if Path(source.path).is_dir():
        return Path(source.path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source.path, **source.arguments))  # type: ignore[arg-type]


def write_model(
    tensors: Iterable[tuple[str, torch.Tensor]],
    target: Path,
    *,
    like: Path,
    dtype: Dtype,
    part_bytes: int = PART_BYTES,
) -> None:
    """Writes a model's folder, which appears under its name once it is whole.

    Args:
        tensors: names and values; floating-point ones are written as `dtype`.
        target: a folder that is new or empty.
        like: the folder whose config and tokenizer it gets.

    Raises:
        UsageError: the target is there already and holds something.
        DataError: a value does not fit `dtype`.
    """
    check_free(target)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for file in sorted(like.iterdir()):
            if file.is_file() and not file.name.endswith(WEIGHT_SUFFIXES):
                shutil.copyfile(file, part / file.name)
        _note_dtype(part / "config.json", dtype)
        _write_parts(_cast(tensors, dtype), part, part_bytes)
        if target.exists():
            target.rmdir()
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_free(target: Path) -> None:
    """Raises UsageError where writing `target` would overwrite something."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already; name an empty or a new folder.")


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return {name: tuple(value.shape) for name, value in _load_bin(file).items()}


def _load_bin(file: Path) -> dict[str, torch.Tensor]:
    """A `.bin` file's tensors, mapped and not read."""
    import torch

    return torch.load(file, map_location="cpu", mmap=True, weights_only=True)


def _check_index(folder: Path, files: dict[str, Path]) -> None:
    """A part that its index names and that is not here would be left out without a word."""
    for name in INDEX_NAMES:
        if (folder / name).is_file():
            named = json.loads((folder / name).read_text("utf-8")).get("weight_map", {})
            if missing := sorted(set(named) - set(files)):
                raise DataError(
                    f"{folder.name}: {name} lists {len(missing)} tensors that no file here holds, "
                    f"the first {missing[0]!r} in {named[missing[0]]!r}; download that file again."
                )
            return


@contextmanager
def _reading(files: dict[str, Path]) -> Iterator[Callable[[str], torch.Tensor]]:
    opened: dict[Path, Any] = {}
    with ExitStack() as stack:

        def read(name: str) -> torch.Tensor:
            file = files[name]
            if file.suffix == ".bin":
                if file not in opened:
                    opened[file] = _load_bin(file)
                return opened[file][name]
            if file not in opened:
                from safetensors import safe_open

                opened[file] = stack.enter_context(safe_open(file, framework="pt"))
            return opened[file].get_tensor(name)

        yield read
        opened.clear()


def _cast(
    tensors: Iterable[tuple[str, torch.Tensor]], dtype: Dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    wanted = getattr(torch, dtype)
    for name, value in tensors:
        if not value.is_floating_point():
            yield name, value
            continue
        cast = value.to(wanted)
        if bool(torch.isinf(cast).any()) and not bool(torch.isinf(value).any()):
            raise DataError(
                f"the tensor {name} holds {float(value.abs().max()):.3g}, which does not fit "
                f"{dtype}; choose --dtype bfloat16 or float32."
            )
        yield name, cast


def _write_parts(
    tensors: Iterable[tuple[str, torch.Tensor]], folder: Path, part_bytes: int
) -> None:
    """Parts named as every library finds them, and their index when there are several."""
    from safetensors.torch import save_file

    parts: list[tuple[Path, list[str]]] = []
    waiting: dict[str, torch.Tensor] = {}
    total = size = 0

    def write() -> None:
        path = folder / f"part-{len(parts)}"
        save_file(waiting, path, metadata={"format": "pt"})
        parts.append((path, list(waiting)))
        waiting.clear()

    for name, value in tensors:
        if waiting and size + value.nbytes > part_bytes:
            write()
            size = 0
        waiting[name] = value.contiguous()
        size += value.nbytes
        total += value.nbytes
    write()
    if len(parts) == 1:
        parts[0][0].rename(folder / "model.safetensors")
        return
    places: dict[str, str] = {}
    for i, (path, names) in enumerate(parts, 1):
        final = f"model-{i:05}-of-{len(parts):05}.safetensors"
        path.rename(folder / final)
        places |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX_NAMES[0]).write_text(json.dumps(index, indent=2), "utf-8")


def _note_dtype(path: Path, dtype: Dtype) -> None:
    """The config says in which precision its weights are, under the name it used."""
    if not path.is_file():
        return
    config = json.loads(path.read_text("utf-8"))
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
