"""Sends one message to a worker that a controller knows, and prints the answer as it comes.

python3 -m fastchat.serve.test_message --model-name vicuna-7b-v1.5
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import orjson

from fastchat.errors import FastChatError, UnavailableError, UsageError
from fastchat.serve.connection import Connection
from fastchat.serve.endpoints import parse_address
from fastchat.serve.upstream import Origin, fetch_json
from fastchat.settings import alias, run_command

LIST_TIMEOUT_S = 10.0
QUIET_S = 120.0
MAX_REPLY_BYTES = 1024 * 1024

__test__ = False  # published name; not a test


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSettings:
    """Sends a test message to a model and prints its answer."""

    controller_address: Annotated[str, alias("--controller")] = "http://localhost:21001"
    """Controller that is asked for the models and a worker."""
    worker_address: Annotated[str | None, alias("--worker")] = None
    """Worker, gateway or other OpenAI-compatible server to ask directly."""
    model_name: Annotated[str | None, alias("--model")] = None
    """Model to ask; by default the first that is listed."""
    temperature: float = 0.0
    """0 is the most likely answer."""
    max_new_tokens: int = 32
    """Longest answer, in tokens."""
    message: str = "Tell me a story with more than 1000 words."
    """What is said to the model."""
    api_key: str = "EMPTY"
    """Key of a server that wants one."""
    debug: bool = False
    """Show tracebacks."""


def main(argv: list[str] | None = None) -> int:
    """Status 0 when the model answered."""
    return run_command(MessageSettings, run, argv, prog="python3 -m fastchat.serve.test_message")


def run(settings: MessageSettings) -> None:
    """Prints the models, the worker, the message and the answer.

    Raises:
        UsageError: a setting or the request is refused.
        UnavailableError: nobody serves the model, or no whole answer came.
    """
    asyncio.run(_run(settings))


async def _run(settings: MessageSettings) -> None:
    models, worker = await find_worker(settings)
    model = settings.model_name or models[0]
    print(f"Models: {models}")
    print(f"worker_addr: {worker}")
    print(f"USER: {settings.message}")
    print("ASSISTANT: ", end="", flush=True)
    n_pieces = 0
    try:
        async for piece in stream_answer(settings, worker, model=model):
            print(piece, end="", flush=True)
            n_pieces += 1
    finally:
        print(flush=True)
    if n_pieces == 0:
        raise UnavailableError(f"{model} gave an empty answer.")


async def find_worker(settings: MessageSettings) -> tuple[list[str], str]:
    """The models that are served, and the base URL of a server of the wanted one.

    Raises:
        UsageError: the wanted model is not served.
        UnavailableError: nobody answers, or nothing is served.
    """
    if settings.worker_address:
        parse_address(settings.worker_address)
        models = await _models_of(settings.worker_address, settings.api_key)
        return models, settings.worker_address.rstrip("/")
    controller = settings.controller_address
    parse_address(controller)
    models = (await _ask(controller, "/list_models", {})).get("models") or []
    if not models:
        raise UnavailableError(f"The controller at {controller} knows no worker; start one first.")
    model = settings.model_name or models[0]
    worker = (await _ask(controller, "/get_worker_address", {"model": model})).get("address")
    if not worker:
        raise UsageError(f"No worker serves {model!r}; the controller lists {models}.")
    return models, worker


async def stream_answer(
    settings: MessageSettings, worker: str, *, model: str
) -> AsyncIterator[str]:
    """The pieces of the answer.

    Raises:
        UsageError: the server refused the request.
        UnavailableError: it cannot be reached, or the stream broke.
    """
    request = {
        "model": model,
        "messages": [{"role": "user", "content": settings.message}],
        "temperature": settings.temperature,
        "max_tokens": settings.max_new_tokens,
        "stream": True,
    }
    origin = Origin(worker, bearer=settings.api_key)
    connection: Connection | None = None
    try:
        async with asyncio.timeout(QUIET_S):
            connection = await origin.send("POST", "/v1/chat/completions", orjson.dumps(request))
        if connection.status != 200:
            async with asyncio.timeout(QUIET_S):
                reply = await connection.read_all(MAX_REPLY_BYTES)
            raise _refusal(connection.status, reply)
        rest = b""
        while not connection.is_drained:
            async with asyncio.timeout(QUIET_S):
                *lines, rest = (rest + await connection.read()).split(b"\n")
            for line in lines:
                if line.strip() == b"data: [DONE]":
                    return
                if line.startswith(b"data:"):
                    yield _piece(orjson.loads(line.removeprefix(b"data:")))
        raise UnavailableError(f"{worker} ended the answer before its end.")
    except TimeoutError:
        raise UnavailableError(f"{worker} sent nothing for {QUIET_S:g} s.") from None
    except orjson.JSONDecodeError:
        raise UnavailableError(f"{worker} sent an event that is not JSON.") from None
    finally:
        if connection is not None:
            connection.abort()


def _piece(event: Any) -> str:
    """The text in one event of the stream.

    Raises:
        FastChatError: the event says that the answer failed.
    """
    if not isinstance(event, dict) or "error" in event:
        raise _refusal(500, orjson.dumps(event))
    deltas = [choice.get("delta") or {} for choice in event.get("choices") or ()]
    return "".join(delta.get("content") or "" for delta in deltas)


def _refusal(status: int, reply: bytes) -> FastChatError:
    """The error that a server's error body describes."""
    message = reply[:200].decode("utf-8", "replace")
    with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError):
        message = str(orjson.loads(reply)["error"]["message"])
    kind = UsageError if status < 500 else FastChatError
    return kind(f"The server answered {status}: {message}")


async def _models_of(worker: str, api_key: str) -> list[str]:
    status, reply = await _fetch(worker, "GET", "/v1/models", bearer=api_key)
    cards = reply.get("data") if isinstance(reply, dict) else None
    models = [card["id"] for card in cards or [] if isinstance(card, dict) and "id" in card]
    if status != 200 or not models:
        raise UnavailableError(f"{worker} answered {status} to GET /v1/models and listed no model.")
    return models


async def _ask(controller: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON object that the controller answers."""
    status, reply = await _fetch(controller, "POST", path, body=body)
    if status != 200 or not isinstance(reply, dict):
        raise UnavailableError(f"{controller} answered {status} to {path}; is it a controller?")
    return reply


async def _fetch(
    url: str, method: str, path: str, *, body: Any = None, bearer: str | None = None
) -> tuple[int, Any]:
    try:
        return await fetch_json(
            url, method, path, body=body, bearer=bearer, timeout_s=LIST_TIMEOUT_S
        )
    except UnavailableError as error:
        raise UnavailableError(f"Nobody answers at {url} ({error.message})") from None


if __name__ == "__main__":
    sys.exit(main())
