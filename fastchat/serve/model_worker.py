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

from fastchat import logs
from fastchat.engine.choose import EngineSettings
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
        return dict.fromkeys(names, engine)

    run_worker(settings, open_engines)


def run_worker(
    settings: WorkerSettings, open_engines: Callable[[], Awaitable[Mapping[str, "Engine"]]]
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
        run_loop(_serve(settings, open_engines, sockets))


async def _serve(
    settings: WorkerSettings,
    open_engines: Callable[[], Awaitable[Mapping[str, "Engine"]]],
    sockets: list[socket.socket],
) -> None:
    from fastchat.serve.asgi import serve_sockets
    from fastchat.serve.published_worker import published_routes
    from fastchat.serve.registration import Registration, worker_address
    from fastchat.serve.worker import Worker

    port = sockets[0].getsockname()[1]
    controller_url = settings.controller_address
    address = settings.worker_address or worker_address(
        settings, port=port, controller_url=controller_url
    )
    worker = Worker(await open_engines(), settings, extra_routes=published_routes)
    for listener in sockets:
        listener.listen()  # whoever hears of us from now on can connect
    registration: asyncio.Task[None] | None = None
    if not settings.no_register:
        registration = asyncio.create_task(
            Registration(
                controller_url,
                lambda: registration_body(worker, address),
                interval_s=settings.heart_beat_interval_s,
                token=settings.worker_token,
            ).run()
        )

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


async def open_model(model: ModelSettings, engine: EngineSettings) -> "Engine":
    """The started engine of a model, or of `echo:` (see `engine/echo.py`)."""
    from fastchat.engine import choose, echo

    if model.model_path.startswith(echo.PREFIX):
        options = echo.echo_options(model.model_path)
        if model.context_len is not None:
            options = replace(options, context=model.context_len)
        return echo.EchoEngine(options)
    return await choose.open_engine(model, engine)


def default_name(model_path: str) -> str:
    """`vicuna-7b` for `models/vicuna-7b/`, `echo` for `echo:delay_ms=5`."""
    return PurePath(model_path.split(":", 1)[0] or model_path).name or model_path


if __name__ == "__main__":
    sys.exit(main())
