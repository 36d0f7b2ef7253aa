"""Registers a server that speaks the OpenAI API at a controller.

    python3 -m fastchat.serve.register_worker --controller http://localhost:21001 \\
        --worker-name http://localhost:8080

Its models are read from its `/v1/models`; from then on the controller asks for its health.
"""

import asyncio
import sys
from dataclasses import dataclass
from typing import Annotated, Any

from fastchat.errors import UnavailableError, UsageError
from fastchat.serve.endpoints import parse_address, read_model_names
from fastchat.serve.upstream import fetch_json
from fastchat.settings import CommaList, Env, alias, run_command

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterSettings:
    """Registers a worker, or any OpenAI-compatible server, at a controller."""

    worker_name: Annotated[str, alias("--worker", "--worker-address")] = ""
    """Base URL of the server, for example http://localhost:8080."""
    controller_address: Annotated[str, alias("--controller")] = "http://localhost:21001"
    """Controller to register at."""
    model_names: Annotated[CommaList, alias("--model-name")] = ()
    """Names to register, for a server that lists none or more than is meant."""
    check_heart_beat: bool = False
    """Expect heart-beats of it, instead of asking for its health."""
    multimodal: bool = False
    """It takes images."""
    worker_token: Annotated[str | None, Env("FASTCHAT_WORKER_TOKEN")] = None
    """Secret of the controller; better in the environment."""
    debug: bool = False
    """Show tracebacks."""


def main(argv: list[str] | None = None) -> int:
    """Registers once; status 0 when the controller has taken the server in."""
    prog = "python3 -m fastchat.serve.register_worker"
    return run_command(RegisterSettings, _run, argv, prog=prog)


def _run(settings: RegisterSettings) -> None:
    asyncio.run(register(settings))
    print(f"Registered {settings.worker_name} at {settings.controller_address}.")


async def register(settings: RegisterSettings) -> None:
    """Posts the registration.

    Raises:
        UsageError: an address is unusable, or the controller refused; its reason is given.
        UnavailableError: the controller does not answer.
    """
    if not settings.worker_name:
        raise UsageError("--worker-name is missing: give the base URL of the server to register.")
    parse_address(settings.controller_address)
    parse_address(settings.worker_name)
    body: dict[str, Any] = {
        "worker_name": settings.worker_name,
        "check_heart_beat": settings.check_heart_beat,
        "worker_status": None,
        "multimodal": settings.multimodal,
    }
    if settings.model_names:
        body["model_names"] = list(read_model_names(list(settings.model_names)))
    try:
        status, reply = await fetch_json(
            settings.controller_address,
            "POST",
            "/register_worker",
            body=body,
            bearer=settings.worker_token,
            timeout_s=TIMEOUT_S,
        )
    except UnavailableError as error:
        raise UnavailableError(
            f"No controller answers at {settings.controller_address} ({error.message}); "
            "start it first, or correct --controller-address."
        ) from None
    if status == 200 and reply is not None:
        raise UsageError(f"{settings.controller_address} does not answer like a controller.")
    if status != 200:
        reason = reply.get("message") if isinstance(reply, dict) else None
        raise UsageError(f"The controller refused ({status}): {reason or 'it gave no reason.'}")


if __name__ == "__main__":
    sys.exit(main())
