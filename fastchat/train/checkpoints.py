"""Which checkpoint a training goes on from."""

import json
import logging
from pathlib import Path

from fastchat.errors import DataError

logger = logging.getLogger(__name__)


def checkpoint_to_resume(asked: str | None, folder: Path) -> Path | None:
    """The checkpoint to go on from: the one asked for, else the newest that is whole.

    asked: a path, `auto` (as None) for the newest in `folder`, `none` to begin anew.
    """
    if asked and asked.lower() in ("none", "false"):
        return None
    if asked and asked.lower() not in ("auto", "true"):
        if not is_whole(Path(asked)):
            raise DataError(f"the checkpoint {asked} is missing or damaged; name another one.")
        return Path(asked)
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()]
    for path in sorted(found, key=lambda path: int(path.name[11:]), reverse=True):
        if is_whole(path):
            return path
        logger.warning("skipping a damaged checkpoint=%s", path)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end.

    The trainer's state is written last; every weights file must be as long as its header says.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return "global_step" in state and weights_are_whole(checkpoint)


def weights_are_whole(folder: Path) -> bool:
    """Whether a folder holds weights, every file as long as its header says."""
    try:
        weights = list(folder.glob("*.safetensors"))
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            named = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
            weights += [folder / name for name in named]
        others = list(folder.glob("pytorch_model*")) + list(folder.glob("global_step*"))
        return bool(weights or others) and all(_safetensors_is_whole(path) for path in weights)
    except (OSError, ValueError, KeyError):
        return False


def _safetensors_is_whole(path: Path) -> bool:
    """Whether the file holds all the bytes that its header promises."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length < path.stat().st_size:
            return False
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return path.stat().st_size == 8 + length + max(ends, default=0)
