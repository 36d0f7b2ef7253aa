"""The model worker: one model behind the OpenAI API, registered at a controller.

python3 -m fastchat.serve.model_worker --model-path lmsys/vicuna-7b-v1.5
"""

import asyncio
import logging
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import UseAppendAction

from fastchat import logs
from fastchat.engine.choose import EngineSettings
from fastchat.errors import UsageError
from fastchat.model.load import ModelSettings
from fastchat.serve.published_formats import FormatFlags
from fastchat.serve.worker_settings import WorkerSettings
from fastchat.settings import CommaList, Group, alias, run_command

if TYPE_CHECKING:
    from fastchat.engine.base import Engine
    from fastchat.serve.worker import Worker

log = logging.getLogger(__name__)

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

ModelNames = Annotated[CommaList, alias("--model-name")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWorkerSettings(WorkerSettings):
    """Serves one model over the OpenAI API and registers it at the controller."""

    model_names: ModelNames = ()
    """Names under which the model is served; the default is the last part of its path."""
    lora: UseAppendAction[tuple[str, ...]] = ()
    """name=path of a PEFT adapter served over the model under that name; may be repeated."""
    allow_lora_from: str | None = None
    """Folder from which adapters may be loaded while running (/v1/load_lora_adapter)."""
    model: Group[ModelSettings] = field(default_factory=ModelSettings)
    engine: Group[EngineSettings] = field(default_factory=EngineSettings)
    formats: Group[FormatFlags] = field(default_factory=FormatFlags)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the worker until a signal."""
    return run_command(
        ModelWorkerSettings, _run, argv, prog="python3 -m fastchat.serve.model_worker"
    )


def _run(settings: ModelWorkerSettings) -> None:
    settings.formats.refuse()

    async def open_engines() -> dict[str, "Engine"]:
        engine = await open_model(settings.model, settings.engine)
        names = settings.model_names or (default_name(settings.model.model_path),)
        adapters = await open_adapters(engine, settings.lora, taken=names)
        return dict.fromkeys(names, engine) | adapters

    run_worker(settings, open_engines, allow_lora_from=settings.allow_lora_from)


def run_worker(
    settings: WorkerSettings,
    open_engines: Callable[[], Awaitable[Mapping[str, "Engine"]]],
    *,
    allow_lora_from: str | None = None,
) -> None:
    """Serves what `open_engines` gives, by model name, until a signal.

    The port is taken before the models are loaded, so that a taken one is noticed at once,
    and opened after.
    """
    from fastchat.serve.asgi import bind, run_loop

    logs.setup(f"model_worker_{secrets.token_hex(4)}.log", debug=settings.debug)
    if settings.host not in _LOOPBACK:
        log.warning(
            "listening on %s: whoever reaches this port can use the model; "
            "let only the gateway reach it",
            settings.host,
        )
    with ExitStack() as opened:
        sockets = [opened.enter_context(s) for s in bind(settings.host, settings.port)]
        run_loop(_serve(settings, open_engines, sockets, allow_lora_from=allow_lora_from))


async def _serve(
    settings: WorkerSettings,
    open_engines: Callable[[], Awaitable[Mapping[str, "Engine"]]],
    sockets: list[socket.socket],
    *,
    allow_lora_from: str | None = None,
) -> None:
    from fastchat.serve.adapter_routes import AdapterRoutes
    from fastchat.serve.asgi import serve_sockets
    from fastchat.serve.published_worker import published_routes
    from fastchat.serve.registration import Registration, worker_address
    from fastchat.serve.worker import Worker

    port = sockets[0].getsockname()[1]
    controller_url = settings.controller_address
    address = settings.worker_address or worker_address(
        settings, port=port, controller_url=controller_url
    )
    adapters = AdapterRoutes(allow_lora_from)
    worker = Worker(
        await open_engines(),
        settings,
        extra_routes=lambda w: {**published_routes(w), **adapters.routes(w)},
    )
    for listener in sockets:
        listener.listen()  # whoever hears of us from now on can connect
    registration: asyncio.Task[None] | None = None
    if not settings.no_register:
        keeper = Registration(
            controller_url,
            lambda: registration_body(worker, address),
            interval_s=settings.heart_beat_interval_s,
            token=settings.worker_token,
        )
        worker.on_change = keeper.renew
        registration = asyncio.create_task(keeper.run())

    async def leave() -> None:
        if registration is not None:
            registration.cancel()
            await asyncio.gather(registration, return_exceptions=True)
        await worker.stop()

    await serve_sockets(worker.app, settings, sockets=sockets, closing=leave)


def registration_body(worker: "Worker", address: str) -> dict[str, Any]:
    """What a worker tells a controller about itself."""
    engines = worker.engines
    multimodal = any("vision" in engine.info.abilities for engine in engines.values())
    return {
        "worker_name": address,
        "check_heart_beat": True,
        "worker_status": worker.status(),
        "multimodal": multimodal,
        "worker_info": {
            "context_length": {n: e.info.context_length for n, e in engines.items()},
            "multimodal": multimodal,
            "max_running": worker.admission.limit,
        },
    }


async def open_model(
    model: ModelSettings, engine: EngineSettings, *, shared: dict[str, "Engine"] | None = None
) -> "Engine":
    """The started engine of a model or an adapter, or of `echo:` (see `engine/echo.py`).

    shared: as for `choose.open_engine`.
    """
    from fastchat.engine import choose, echo

    if model.model_path.startswith(echo.PREFIX):
        options = echo.echo_options(model.model_path)
        if model.context_len is not None:
            options = replace(options, context=model.context_len)
        return echo.EchoEngine(options)
    return await choose.open_engine(model, engine, shared=shared)


async def open_adapters(
    base: "Engine", pairs: Sequence[str], *, taken: Sequence[str]
) -> dict[str, "Engine"]:
    """The engines of adapters given as name=path, by name.

    Raises:
        UsageError: a pair is none, its name is taken, or its adapter does not fit the base.
    """
    from fastchat.engine.choose import load_adapter

    found: dict[str, Engine] = {}
    for pair in pairs:
        name, _, path = (part.strip() for part in pair.partition("="))
        if not name or not path:
            raise UsageError(f"--lora {pair!r}: give a name and a path, like sql=adapters/sql")
        if name in taken or name in found:
            raise UsageError(f"--lora {pair!r}: the name {name!r} is taken; give it another one")
        found[name] = await load_adapter(base, name, path)
    return found


def default_name(model_path: str) -> str:
    """`vicuna-7b` for `models/vicuna-7b/`, `echo` for `echo:delay_ms=5`."""
    return PurePath(model_path.split(":", 1)[0] or model_path).name or model_path


if __name__ == "__main__":
    sys.exit(main())
