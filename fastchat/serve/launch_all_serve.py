"""Starts controller, workers, gateway and page, and keeps them running until Ctrl-C.

    python3 -m fastchat.serve.launch_all_serve
    python3 -m fastchat.serve.launch_all_serve --model-path-address "./vicuna-7b@localhost@21002"

The first line serves the model that ships in the package. Each process writes to its own file
in `logs/`, or in the folder named by LOGDIR.
"""

import asyncio
import dataclasses
import importlib.util
import json
import logging
import os
import re
import secrets
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastchat import logs
from fastchat.errors import UsageError
from fastchat.model.load import ModelSettings
from fastchat.serve.places import Place, check_ports
from fastchat.serve.processes import pid_file
from fastchat.serve.published_formats import FormatFlags
from fastchat.serve.supervisor import Child, Patience, Supervisor, answers
from fastchat.settings import CommaList, Env, Group, NoSwitch, alias, run_command

log = logging.getLogger(__name__)

PID_FILE = "launch_all_serve.pid"
LISTED_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSettings:
    """Start a controller, workers, the API server and the page; Ctrl-C ends them all."""

    model: Group[ModelSettings] = ModelSettings()
    formats: Group[FormatFlags] = FormatFlags()
    model_path_address: tuple[str, ...] = ()
    """One worker each, as `path@host@port`; the default is one worker from the flags below."""
    controller_host: str = "localhost"
    """Where the controller listens."""
    controller_port: int = 21001
    """Its port."""
    dispatch_method: Literal["shortest_queue", "lottery"] = "shortest_queue"
    """How the controller chooses among workers of one model."""
    worker_host: str = "localhost"
    """Where the worker of --model-path listens."""
    worker_port: int = 21002
    """Its port."""
    model_names: CommaList = ()
    """Names the workers answer to; the default is the last part of each path."""
    limit_worker_concurrency: Annotated[int | None, alias("--limit")] = None
    """Requests a worker answers at once; the default is the worker's own."""
    stream_interval: int | None = None
    """Tokens per streamed piece; the default is the worker's own."""
    no_register: NoSwitch = False
    """Workers do not register at the controller."""
    server_host: str = "localhost"
    """Where the API server listens."""
    server_port: int = 8000
    """Its port."""
    allow_credentials: bool = False
    """Let browsers send credentials to the API server; needs --allowed-origins."""
    allowed_origins: str | None = None
    """Pages whose browsers may call the API server, as a JSON list."""
    api_keys: Annotated[CommaList, Env("API_KEYS")] = ()
    """Keys the API server accepts; without any, and without --database-url, it is open."""
    database_url: Annotated[str | None, Env("FASTCHAT_KEYS_DATABASE_URL")] = None
    """Database with the keys of fastchat.serve.keys, which the API server then asks for."""
    register_api_endpoint_file: Annotated[Path | None, alias("--register")] = None
    """JSON file of models that others serve; keys may stand in the environment."""
    web_host: str = "127.0.0.1"
    """Where the page listens."""
    web_port: int = 7860
    """Its port."""
    web: bool = True
    """Serve the page as well."""
    arena: bool = False
    """The page is the arena (gradio_web_server_multi), with battles, votes and a leaderboard."""
    startup_timeout_s: float = 600.0
    """How long a process may take to its first answer; downloads count."""
    log_dir: Annotated[str, Env("LOGDIR")] = "logs"
    """Folder of the log files and of the file that names the running processes."""
    debug: bool = False
    """Log at DEBUG level and show tracebacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """Everything one call starts."""

    controller: Place
    workers: tuple[tuple[str, Place], ...]
    """Model paths with their places."""
    server: Place
    page: Place | None

    @property
    def places(self) -> tuple[Place, ...]:
        pages = () if self.page is None else (self.page,)
        return (self.controller, *(place for _, place in self.workers), self.server, *pages)


def platform(settings: LaunchSettings) -> Platform:
    """What to start, and where.

    Raises:
        UsageError: a `path@host@port` is not one, or two processes want the same port.
    """
    if settings.model_path_address:
        workers = tuple(_worker(item) for item in settings.model_path_address)
    else:
        place = Place(
            name=f"worker of {settings.model.model_path}",
            host=settings.worker_host,
            port=settings.worker_port,
            flag="--worker-port",
        )
        workers = ((settings.model.model_path, place),)
    s = settings
    result = Platform(
        controller=Place(
            name="controller",
            host=s.controller_host,
            port=s.controller_port,
            flag="--controller-port",
        ),
        workers=workers,
        server=Place(
            name="API server", host=s.server_host, port=s.server_port, flag="--server-port"
        ),
        page=Place(name="page", host=s.web_host, port=s.web_port, flag="--web-port")
        if s.web
        else None,
    )
    taken: dict[int, Place] = {}
    for place in result.places:
        if (other := taken.setdefault(place.port, place)) is not place:
            raise UsageError(
                f"{other.name} and {place.name} both want port {place.port}; "
                f"change it by {place.flag}."
            )
    return result


def children(settings: LaunchSettings, plan: Platform) -> list[Child]:
    """The processes of `plan` as commands."""
    controller_url = plan.controller.url
    # The supervisor keeps everything they write in files of the same names, so their own
    # copies are turned off.
    env = {"LOGDIR": "", "PYTHONUNBUFFERED": "1"}
    folder = Path(settings.log_dir or "logs")
    result = [
        _child(
            plan.controller,
            "controller",
            ["--dispatch-method", settings.dispatch_method],
            health="/test_connection",
            log_path=folder / "controller.log",
            env=env,
        )
    ]
    for path, place in plan.workers:
        flags = ["--model-path", path, "--controller-address", controller_url]
        if place.host not in ("0.0.0.0", "::"):
            flags += ["--worker-address", place.url]
        file_name = re.sub(r"[-@.\\/:]", "_", f"{path}@{place.host}@{place.port}")
        worker = _child(
            place,
            "model_worker",
            [*flags, *_worker_flags(settings)],
            health="/health",
            log_path=folder / f"worker_{file_name}.log",
            env=env,
        )
        result.append(dataclasses.replace(worker, essential=len(plan.workers) == 1))
    server_flags = ["--controller-address", controller_url]
    if settings.allow_credentials:
        server_flags.append("--allow-credentials")
    if settings.allowed_origins is not None:
        server_flags += ["--allowed-origins", settings.allowed_origins]
    if settings.register_api_endpoint_file is not None:
        server_flags += ["--register", str(settings.register_api_endpoint_file)]
    server_env = env
    if settings.api_keys:
        # Keys travel in the environment: a process list shows flags to everybody.
        server_env = {**server_env, "API_KEYS": ",".join(settings.api_keys)}
    if settings.database_url:
        server_env = {**server_env, "FASTCHAT_KEYS_DATABASE_URL": settings.database_url}
    result.append(
        _child(
            plan.server,
            "openai_api_server",
            server_flags,
            health="/health",
            log_path=folder / "openai_api_server.log",
            env=server_env,
        )
    )
    if plan.page is not None:
        page_flags = ["--controller-url", controller_url, "--api-url", f"{plan.server.url}/v1"]
        if settings.arena:
            page_flags += ["--log-dir", str(folder)]  # the daily logs, which votes are cleaned from
        program = "gradio_web_server_multi" if settings.arena else "gradio_web_server"
        page = _child(
            plan.page,
            program,
            page_flags,
            health="/",
            log_path=folder / f"{program}.log",
            env={**env, "FASTCHAT_API_KEY": settings.api_keys[0]} if settings.api_keys else env,
        )
        result.append(dataclasses.replace(page, essential=False))
    return result


async def run(settings: LaunchSettings) -> int:
    """Runs the platform until a signal comes or it cannot go on."""
    settings.formats.refuse()
    settings = with_own_key(_without_missing_page(settings))
    plan = platform(settings)
    check_ports(plan.places)
    stop = asyncio.Event()
    with pid_file(Path(settings.log_dir or "logs") / PID_FILE) as record:
        supervisor = Supervisor(
            children(settings, plan),
            Patience(startup_s=settings.startup_timeout_s),
            on_ready=lambda child, seconds: _say(f"{child.name:<18} ready after {seconds:.1f} s"),
            on_change=record.write,
        )
        _stop_on_signals(stop, supervisor)
        _say(f"Starting {len(supervisor.children)} processes; output in {record.path.parent}/")
        working = asyncio.create_task(_work(settings, plan, supervisor))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            else:
                _say("Stopping.")
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)
            await supervisor.stop()
    _say("All processes have ended.")
    return 0


async def _work(settings: LaunchSettings, plan: Platform, supervisor: Supervisor) -> None:
    """Starts everything, says where it is, and returns when all of it was told to end."""
    await supervisor.start()
    models = [] if settings.no_register else await _listed_models(settings, plan)
    _say(summary(settings, plan, models))
    await supervisor.wait()


def summary(settings: LaunchSettings, plan: Platform, models: Sequence[str]) -> str:
    """The addresses, and a line to try."""
    lines = ["", f"API    {plan.server.url}/v1"]
    if plan.page is not None:
        lines.insert(1, f"Page   {plan.page.url}")
    lines.append(f"Models {', '.join(models) or 'none registered'}")
    if models:
        body = {"model": models[0], "messages": [{"role": "user", "content": "Who are you?"}]}
        key = ' -H "Authorization: Bearer $API_KEY"' if settings.api_keys else ""
        lines += [
            "",
            "Try it:",
            f"curl {plan.server.url}/v1/chat/completions"
            f' -H "Content-Type: application/json"{key}'
            f" -d '{json.dumps(body)}'",
        ]
    return "\n".join([*lines, "", "Ctrl-C ends everything."])


async def _listed_models(settings: LaunchSettings, plan: Platform) -> list[str]:
    """The models the API server offers, once there are as many as the workers hold."""
    key = settings.api_keys[0] if settings.api_keys else ""
    token = os.environ.get("FASTCHAT_WORKER_TOKEN", "")  # as the workers have it
    unheard = [place.url for _, place in plan.workers]
    wanted: set[str] = set()
    listed: list[str] = []
    end = asyncio.get_running_loop().time() + LISTED_TIMEOUT_S
    while True:
        for url in tuple(unheard):
            if held := await asyncio.to_thread(_models_of, url, token):
                wanted |= set(held)
                unheard.remove(url)
        listed = await asyncio.to_thread(_models_of, plan.server.url, key)
        if not unheard and wanted <= set(listed):
            return listed
        if asyncio.get_running_loop().time() >= end:
            break
        await asyncio.sleep(0.1)
    missing = ", ".join([*unheard, *sorted(wanted - set(listed))])
    log.warning("not offered by the API server within %g s: %s", LISTED_TIMEOUT_S, missing)
    return listed


def _models_of(base_url: str, key: str) -> list[str]:
    """Model names of an OpenAI server; none when it does not answer."""
    body = answers(f"{base_url}/v1/models", key=key)
    if body is None:
        return []
    return [model["id"] for model in json.loads(body)["data"]]


def _worker(item: str) -> tuple[str, Place]:
    """Path and place of one `path@host@port`."""
    path, host, port = ["", "", "", *item.rsplit("@", 2)][-3:]
    if not (path and host and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(
            f"--model-path-address {item!r} is not path@host@port, "
            "like lmsys/vicuna-7b-v1.5@localhost@21002."
        )
    place = Place(name=f"worker of {path}", host=host, port=int(port), flag="--model-path-address")
    return path, place


def _child(
    place: Place,
    module: str,
    flags: Sequence[str],
    *,
    health: str,
    log_path: Path,
    env: dict[str, str],
) -> Child:
    """The process that runs `fastchat.serve.<module>` at `place`."""
    command = (sys.executable, "-m", f"fastchat.serve.{module}")
    return Child(
        name=place.name,
        command=(*command, "--host", place.host, "--port", str(place.port), *flags),
        health_url=f"{place.url}{health}",
        log_path=log_path,
        env=env,
    )


def _worker_flags(settings: LaunchSettings) -> list[str]:
    """What of `settings` every worker gets: only what differs from the defaults."""
    given = {
        field.name: getattr(settings.model, field.name)
        for field in dataclasses.fields(ModelSettings)
        if field.name != "model_path" and getattr(settings.model, field.name) != field.default
    }
    for name in ("model_names", "limit_worker_concurrency", "stream_interval", "no_register"):
        if value := getattr(settings, name):
            given[name] = value
    flags: list[str] = []
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(flag)
        else:
            flags += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
    return flags


def _without_missing_page(settings: LaunchSettings) -> LaunchSettings:
    """`settings` without the page where its library is not installed."""
    if settings.web and importlib.util.find_spec("gradio") is None:
        _say('No page: gradio is not installed (pip3 install "fschat[webui]").')
        return dataclasses.replace(settings, web=False)
    return settings


def with_own_key(settings: LaunchSettings) -> LaunchSettings:
    """`settings` with a key for the page and for us, where only stored keys open the server."""
    if settings.api_keys or not settings.database_url:
        return settings
    return dataclasses.replace(settings, api_keys=(secrets.token_urlsafe(32),))


def _stop_on_signals(stop: asyncio.Event, supervisor: Supervisor) -> None:
    """The first signal asks for an orderly end, the second ends at once."""

    def on_signal() -> None:
        if stop.is_set():
            supervisor.kill()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)


def _say(text: str) -> None:
    print(text, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    def body(settings: LaunchSettings) -> int:
        logs.setup(debug=settings.debug)
        return asyncio.run(run(settings))

    return run_command(
        LaunchSettings, body, argv, prog="python3 -m fastchat.serve.launch_all_serve"
    )


if __name__ == "__main__":
    raise SystemExit(main())
