"""Asks an endpoint how it is: its health, its models, its load. No table, no routing.

Works with our workers and with any server that speaks the OpenAI API; `GET /health` is
asked first because servers answer it under load.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastchat.errors import FastChatError, UnavailableError, UnprocessableError, UsageError
from fastchat.serve.endpoints import Check, Endpoint, read_endpoint, read_queue_length
from fastchat.serve.upstream import fetch_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An endpoint as it describes itself."""

    endpoint: Endpoint
    queue_length: int = 0


async def is_alive(name: str, *, timeout_s: float = 2.0) -> bool:
    """Whether the endpoint answers, and does not say that it is broken.

    A server without a `/health` route is asked for its models instead; one that wants a
    key for that is alive as well.
    """
    try:
        status, _ = await fetch_json(name, "GET", "/health", timeout_s=timeout_s)
        if 200 <= status < 300:
            return True
        if status in (401, 403, 404, 405):
            status, _ = await fetch_json(name, "GET", "/v1/models", timeout_s=timeout_s)
            return status < 500
    except FastChatError:
        return False
    return False


async def ask_status(
    body: Mapping[str, Any], *, bearer: str | None = None, timeout_s: float = 5.0
) -> Report:
    """The report of the endpoint that a registration `body` without a status names.

    The published `/worker_get_status` is asked first, then the `/v1/models` of any OpenAI
    server; names given in the body's `model_names` are believed where it has neither.

    Raises:
        UnavailableError: it does not answer.
        UsageError: what it answers is no list of models.
    """
    name, check = str(body["worker_name"]), bool(body.get("check_heart_beat"))
    status, reply = await fetch_json(
        name, "POST", "/worker_get_status", body={}, bearer=bearer, timeout_s=timeout_s
    )
    if status == 200 and isinstance(reply, Mapping) and "model_names" in reply:
        endpoint = read_endpoint(body, reply)
        return Report(endpoint=endpoint, queue_length=read_queue_length(reply))
    status, reply = await fetch_json(name, "GET", "/v1/models", bearer=bearer, timeout_s=timeout_s)
    given = body.get("model_names")
    cards = _cards(reply) if status == 200 else []
    names = given if given is not None else [card["id"] for card in cards]
    if not names:
        raise UsageError(
            f"{name} answered {status} to GET /v1/models and named no model; "
            "give the names by --model-names, or correct the address."
        )
    described = {**body, "check_heart_beat": check, "worker_info": _info(body, cards)}
    endpoint = read_endpoint(described, {"model_names": names})
    return Report(endpoint=replace(endpoint, has_given_names=given is not None))


async def refresh(
    endpoint: Endpoint, *, bearer: str | None = None, timeout_s: float = 5.0
) -> Report:
    """The present report of a known endpoint; what it does not say stays as it was.

    Raises:
        UnavailableError: it does not answer, or not with a status.
    """
    body = {
        "worker_name": endpoint.name,
        "check_heart_beat": endpoint.check == "heartbeat",
        "model_names": list(endpoint.model_names) if endpoint.has_given_names else None,
        "multimodal": endpoint.multimodal,
        "worker_info": {
            "context_length": dict(endpoint.context_lengths),
            "max_running": endpoint.max_running,
        },
    }
    try:
        report = await ask_status(body, bearer=bearer, timeout_s=timeout_s)
    except UnprocessableError:
        raise UnavailableError("The endpoint's status cannot be read.") from None
    except UsageError:  # it answers, but lists nothing: its names were given by hand
        return Report(endpoint=endpoint)
    check: Check = endpoint.check
    return replace(report, endpoint=replace(report.endpoint, check=check))


def _cards(reply: Any) -> list[dict[str, Any]]:
    """The model cards of an OpenAI models list; none when it is not one."""
    data = reply.get("data") if isinstance(reply, Mapping) else None
    if not isinstance(data, list):
        return []
    return [card for card in data if isinstance(card, dict) and isinstance(card.get("id"), str)]


def _info(body: Mapping[str, Any], cards: list[dict[str, Any]]) -> dict[str, Any]:
    """The body's worker_info, with the context lengths that the cards tell."""
    info = dict(body.get("worker_info") or {})
    known = info.get("context_length") or {}
    if isinstance(known, Mapping):
        told = {c["id"]: c.get("context_length") or c.get("max_model_len") for c in cards}
        usable = {name: n for name, n in told.items() if isinstance(n, int) and n > 0}
        info["context_length"] = {**known, **usable}
    return info
