"""Where a model's files are: in the package, in a folder, on the hub, or on ModelScope.

Also turns what the libraries say about files into one line.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastchat.errors import DataError, FastChatError, ModelError, UnavailableError, UsageError
from fastchat.errors import OutOfMemoryError as FullError

logger = logging.getLogger(__name__)

BUILTIN = "vicuna-tiny"
"""The model that ships in the package."""

HUB_TIMEOUT_S = 10.0
"""How long the hub may take to say that it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where to load from."""

    path: str
    """A folder, or the id of a hub model."""
    arguments: dict[str, str | bool] = field(default_factory=dict[str, str | bool])
    """For every `from_pretrained`."""
    gguf: dict[str, str] = field(default_factory=dict[str, str])
    """Names the weights file in a folder that holds a GGUF model."""


def locate(model_path: str, *, revision: str = "main", use_modelscope: bool = False) -> Source:
    """The place of a model's files.

    Raises UsageError when the path is neither a folder nor the possible name of a hub model,
    UnavailableError when the hub is needed and cannot be reached.
    """
    path = Path(os.path.expanduser(model_path))
    if model_path and path.is_dir():
        return _folder(path)
    if path.is_file():
        if path.suffix == ".gguf":
            return Source(path=str(path.parent), gguf={"gguf_file": path.name})
        raise UsageError(f"--model-path {model_path!r} is a file; give the model's folder")
    if model_path == BUILTIN:
        folder = Path(__file__).parent / BUILTIN
        if not folder.is_dir():
            raise UsageError(f"{BUILTIN} is not in this installation; give --model-path")
        return Source(path=str(folder))
    if use_modelscope:
        return _folder(_modelscope_folder(model_path, revision))
    _check_hub_id(model_path)
    arguments: dict[str, str | bool] = {"revision": revision}
    if not _is_hub_reachable():
        if not _is_cached(model_path, revision):
            raise UnavailableError(
                f"{model_path!r} is no folder here, and the hub cannot be reached to download it; "
                "check the connection, or give --model-path a folder"
            )
        logger.warning("hub unreachable, using cached files model=%s", model_path)
        arguments["local_files_only"] = True
    return Source(path=model_path, arguments=arguments)


@contextmanager
def plain_errors(name: str, part: str = "config") -> Iterator[None]:
    """Turns what the libraries raise while they read `part` of model `name` into one line."""
    from pickle import UnpicklingError

    import torch
    from safetensors import SafetensorError

    try:
        yield
    except FastChatError:
        raise
    except torch.OutOfMemoryError as error:
        raise FullError(f"{name!r} does not fit into the device's memory") from error
    except ImportError as error:
        raise ModelError(f"{name!r} needs a package: {_first_line(error)}") from error
    except UnpicklingError as error:
        raise DataError(
            f"a weights file of {name!r} holds more than tensors and was not opened; "
            "convert it to safetensors where you trust it"
        ) from error
    except SafetensorError as error:
        raise DataError(f"a weights file of {name!r} is damaged: {_first_line(error)}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"{name!r} needs Python code that comes with it; "
                "if you trust its author, start again with --trust-remote-code"
            ) from error
        raise DataError(f"the {part} of {name!r} cannot be loaded: {_first_line(error)}") from error


def _folder(path: Path) -> Source:
    """A folder; one that holds nothing but a GGUF file is read from that."""
    if not (path / "config.json").is_file():
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return Source(path=str(path), gguf={"gguf_file": files[0].name})
        if not (path / "adapter_config.json").is_file():
            raise UsageError(f"the folder {path.name!r} holds no config.json; it is no model")
    return Source(path=str(path))


def _modelscope_folder(model_path: str, revision: str) -> Path:
    """Where ModelScope's own client puts a model."""
    try:
        from modelscope import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            "FASTCHAT_USE_MODELSCOPE is set, but the package modelscope is not installed; "
            "pip install modelscope, or unset it"
        ) from error
    return Path(
        snapshot_download(model_path, revision="master" if revision == "main" else revision)
    )


def _check_hub_id(model_path: str) -> None:
    """Refuses what cannot be the id of a hub model."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model_path)
    except HFValidationError as error:
        raise UsageError(
            f"--model-path {model_path!r} is no folder here, and no possible id of a hub model"
        ) from error


def _is_hub_reachable() -> bool:
    """Whether the hub answers at all; without this, the client retries for minutes."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # of whichever HTTP library this version of the client stands on
        logger.debug("hub unreachable: %s", error)
        return False
    return True


def _is_cached(model_path: str, revision: str) -> bool:
    """Whether the model's config was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model_path, "config.json", revision=revision), str)


def _first_line(error: BaseException) -> str:
    """What an error says, without the advice that follows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
