"""Adapters that come and go while a worker runs, by vLLM's routes.

Off unless the operator names a folder: whoever may load files of his choice decides what a
model says.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from fastchat.engine.adapted import AdaptedEngine
from fastchat.engine.choose import load_adapter
from fastchat.errors import ForbiddenError, NotFoundError, UsageError
from fastchat.serve.asgi import Handler, parse_json_object, read_body

if TYPE_CHECKING:
    from fastchat.engine.base import Engine
    from fastchat.serve.worker import Worker

MAX_NAME = 256
_MAX_BODY_BYTES = 1 << 16
_LOAD_FIELDS = frozenset({"lora_name", "lora_path", "model"})
_UNLOAD_FIELDS = frozenset({"lora_name", "lora_int_id"})
"""vLLM's clients send its own number of the adapter beside the name, which alone counts here."""


class AdapterRoutes:
    """`/v1/load_lora_adapter` and `/v1/unload_lora_adapter` of a worker."""

    def __init__(self, folder: str | None) -> None:
        """
        Args:
            folder: where adapters may be loaded from; None refuses everything.

        Raises:
            UsageError: there is no such folder.
        """
        self._folder: Path | None = None
        if folder is not None:
            self._folder = Path(folder).expanduser().resolve()
            if not self._folder.is_dir():
                raise UsageError(f"--allow-lora-from {folder!r} is no folder")

    def routes(self, worker: "Worker") -> Mapping[str, Handler]:
        async def load(request: Request) -> Response:
            return await self._load(worker, request)

        async def unload(request: Request) -> Response:
            return await self._unload(worker, request)

        return {"/v1/load_lora_adapter": load, "/v1/unload_lora_adapter": unload}

    async def _load(self, worker: "Worker", request: Request) -> Response:
        folder = self._allowed()
        body = parse_json_object(await read_body(request, _MAX_BODY_BYTES))
        _refuse_others(body, _LOAD_FIELDS)
        name, path = _text(body, "lora_name"), _inside(folder, _text(body, "lora_path"))
        if len(name) > MAX_NAME or not name.isprintable():
            raise UsageError(
                f"`lora_name` must be 1 to {MAX_NAME} printable characters.", param="lora_name"
            )
        if name in worker.engines:
            raise UsageError(f"The name {name!r} is taken; give another.", param="lora_name")
        engine = await load_adapter(_base(worker, body.get("model")), name, str(path))
        worker.add(name, engine)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, worker: "Worker", request: Request) -> Response:
        self._allowed()
        body = parse_json_object(await read_body(request, _MAX_BODY_BYTES))
        _refuse_others(body, _UNLOAD_FIELDS)
        name = _text(body, "lora_name")
        engine = worker.engines.get(name)
        if not isinstance(engine, AdaptedEngine):
            raise NotFoundError(f"There is no adapter {name[:100]!r} here.", param="lora_name")
        worker.remove(name)
        if engine not in worker.engines.values():
            engine.base.unload_adapter(engine.name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    def _allowed(self) -> Path:
        if self._folder is None:
            raise ForbiddenError(
                "Adapters cannot be loaded or unloaded here; the operator allows it by "
                "--allow-lora-from."
            )
        return self._folder


def _base(worker: "Worker", model: object) -> "Engine":
    """The engine below the new adapter: the only one, or the one of the model named.

    Raises UsageError when the model is not named and there are several, or not known.
    """
    if isinstance(model, str):
        found = worker.engine(model)
        return found.base if isinstance(found, AdaptedEngine) else found
    if model is not None:
        raise UsageError("`model` must be a text.", param="model")
    if len(worker.distinct) > 1:
        raise UsageError(
            "There are several models here; name the adapter's base as `model`.", param="model"
        )
    return worker.distinct[0]


def _refuse_others(body: dict[str, Any], known: frozenset[str]) -> None:
    """Refuses fields such as vLLM's `load_inplace` that ask for what is not done here."""
    others = [name for name, value in body.items() if name not in known and value]
    if others:
        name = others[0][:64]
        raise UsageError(f"`{name}` is not supported: leave it out.", param=name)


def _text(body: dict[str, Any], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"`{field}` is required and must be a text.", param=field)
    return value.strip()


def _inside(folder: Path, path: str) -> Path:
    """A folder within `folder`, links followed.

    Raises UsageError when there is none; it says the same of what is not there and of what is
    elsewhere, so that nobody can find out what else there is.
    """
    try:
        found = (folder / path).resolve()
        if found.is_relative_to(folder) and found != folder and found.is_dir():
            return found
    except (OSError, ValueError, RuntimeError):
        pass
    raise UsageError(
        "`lora_path` names no folder within the one that the operator allows.", param="lora_path"
    )
