"""The controller: the published routes around the table of endpoints, and its watch stream.

    python3 -m fastchat.serve.controller

Workers register here and beat; other servers that speak the OpenAI API are registered by
hand and probed. Gateways follow `GET /watch`.
"""

import contextlib
import hashlib
import logging
import secrets
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastchat import logs
from fastchat.errors import (
    AuthenticationError,
    MethodNotAllowedError,
    NotFoundError,
    UnprocessableError,
    UsageError,
)
from fastchat.serve.asgi import (
    EventStream,
    answering,
    bind,
    error_response,
    json_response,
    parse_json_object,
    read_body,
    run_loop,
    serve_sockets,
)
from fastchat.serve.endpoints import (
    LOCAL_HOSTS,
    AddressRules,
    plain_ip,
    read_name,
    read_queue_length,
)
from fastchat.serve.registry import Registry
from fastchat.serve.router import DispatchMethod, Router
from fastchat.serve.upstream import Origins
from fastchat.serve.worker_stream import worker_chunks
from fastchat.settings import CommaList, Env, ServerSettings, run_command

log = logging.getLogger(__name__)

BODY_LIMIT_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings(ServerSettings):
    """Registry of workers and of other OpenAI-compatible servers."""

    port: int = 21001
    """Port to listen on; 0 takes a free one."""
    dispatch_method: DispatchMethod = "shortest_queue"
    """How an endpoint is chosen among those that serve a model."""
    heart_beat_expiration: Annotated[float, Env("FASTCHAT_CONTROLLER_HEART_BEAT_EXPIRATION")] = 90.0
    """Seconds after which a worker that stopped beating is dropped."""
    worker_api_timeout: Annotated[float, Env("FASTCHAT_WORKER_API_TIMEOUT")] = 100.0
    """Seconds without a byte after which a proxied worker stream is given up."""
    worker_token: Annotated[str | None, Env("FASTCHAT_WORKER_TOKEN")] = None
    """Secret that whoever registers must send as a bearer token; better in the environment."""
    allowed_worker_hosts: CommaList = ()
    """Hosts, addresses or networks that may register, beside the sender's own address,
    private networks and this machine; * is any."""

    def __post_init__(self) -> None:
        if not (self.heart_beat_expiration > 0 and self.worker_api_timeout > 0):
            raise UsageError("The expiry of heart-beats and the worker timeout must be above 0.")


class Controller:
    """Requests in, answers of the registry out."""

    def __init__(self, settings: ControllerSettings) -> None:
        self.settings = settings
        self.started_at = time.monotonic()
        self.router = Router(
            method=settings.dispatch_method, expiry_s=settings.heart_beat_expiration
        )
        self.registry = Registry(
            self.router,
            AddressRules(allowed=settings.allowed_worker_hosts),
            worker_token=settings.worker_token,
        )
        self.origins = Origins()

    def routes(self) -> list[Route]:
        """The published routes, and the new ones."""
        table = {
            "/register_worker": self.register_worker,
            "/unregister_worker": self.unregister_worker,
            "/receive_heart_beat": self.receive_heart_beat,
            "/refresh_all_workers": self.refresh_all_workers,
            "/list_models": self.list_models,
            "/list_multimodal_models": self.list_multimodal_models,
            "/list_language_models": self.list_language_models,
            "/get_worker_address": self.get_worker_address,
            "/worker_generate_stream": self.worker_generate_stream,
            "/worker_get_status": self.worker_get_status,
        }
        routes = [Route(path, answering(h), methods=["POST"]) for path, h in table.items()]
        for path, handler in (
            ("/test_connection", self.test_connection),
            ("/watch", self.watch),
            ("/health", self.health),
            ("/metrics", self.metrics),
        ):
            routes.append(Route(path, answering(handler), methods=["GET"]))
        return routes

    # ---- workers come and go

    async def register_worker(self, request: Request) -> Response:
        self._check_token(request)
        peer = plain_ip(request.client.host) if request.client else None
        server = request.scope.get("server")
        local = plain_ip(server[0]) if server and server[1] else None
        await self.registry.register(await _read(request), peer=peer, local=local)
        return json_response(None)

    async def unregister_worker(self, request: Request) -> Response:
        self._check_token(request)
        found = await self.registry.unregister(read_name(await _read(request)))
        return json_response({"found": found})

    async def receive_heart_beat(self, request: Request) -> Response:
        self._check_token(request)
        body = await _read(request)
        if "queue_length" not in body:
            raise UnprocessableError("'queue_length' is missing.", param="queue_length")
        exist = await self.registry.heartbeat(read_name(body), read_queue_length(body))
        return json_response({"exist": exist, "controller_id": self.registry.id})

    async def refresh_all_workers(self, request: Request) -> Response:
        self._check_token(request)
        await self.registry.refresh()
        return json_response(None)

    # ---- who serves what

    async def list_models(self, request: Request) -> Response:
        return json_response({"models": self.router.models()})

    async def list_multimodal_models(self, request: Request) -> Response:
        return json_response({"models": self.router.models(multimodal=True)})

    async def list_language_models(self, request: Request) -> Response:
        return json_response({"models": self.router.models(multimodal=False)})

    async def get_worker_address(self, request: Request) -> Response:
        body = await _read(request)
        model = _read_model(body)
        endpoint = self.router.pick(model, now=time.monotonic())
        reply: dict[str, Any] = {"address": endpoint.name if endpoint else ""}
        if endpoint:
            self.router.hand_out(endpoint.name)
        if body.get("detail") is True:
            reply["worker_info"] = endpoint and {
                "context_length": endpoint.context_length(model),
                "multimodal": endpoint.multimodal,
                "max_running": endpoint.max_running,
            }
        return json_response(reply)

    async def watch(self, request: Request) -> Response:
        lines = self.registry.feed.lines()
        return EventStream(lines, media_type="application/x-ndjson", keepalive=None)

    # ---- a worker to other controllers

    async def worker_generate_stream(self, request: Request) -> Response:
        raw = await read_body(request, BODY_LIMIT_BYTES)
        model = _read_model(_parse(raw))
        chunks = worker_chunks(
            self.router,
            self.origins,
            model=model,
            body=raw,
            quiet_s=self.settings.worker_api_timeout,
            token=self.settings.worker_token,
        )
        return EventStream(chunks, media_type="application/octet-stream", keepalive=None)

    async def worker_get_status(self, request: Request) -> Response:
        reports = (await self.registry.poll(self.router.endpoints())).values()
        return json_response(
            {
                "model_names": sorted({n for r in reports for n in r.endpoint.model_names}),
                "speed": sum(r.endpoint.speed for r in reports),
                "queue_length": sum(r.queue_length for r in reports),
            }
        )

    # ---- how it is

    async def test_connection(self, request: Request) -> Response:
        return json_response("success")

    async def health(self, request: Request) -> Response:
        listed = self.router.snapshot()
        return json_response(
            {
                "status": "ok",
                "controller_id": self.registry.id,
                "uptime_s": round(time.monotonic() - self.started_at, 1),
                "endpoints": len(listed),
                "failing": len(self.router.failing()),
                "models": len(self.router.models()),
            }
        )

    async def metrics(self, request: Request) -> Response:
        listed = self.router.snapshot()
        values = {
            "endpoints": len(listed),
            "endpoints_failing": len(self.router.failing()),
            "models": len(self.router.models()),
            "queue_length": sum(listing.queue_length for listing in listed.values()),
            "uptime_seconds": round(time.monotonic() - self.started_at, 3),
        }
        lines = [
            f"# TYPE fastchat_controller_{name} gauge\nfastchat_controller_{name} {value}\n"
            for name, value in values.items()
        ]
        return Response("".join(lines), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _check_token(self, request: Request) -> None:
        """Raises AuthenticationError unless the worker token, if there is one, was sent."""
        token = self.settings.worker_token
        if token is None:
            return
        sent = request.headers.get("authorization", "")
        kind, _, value = sent.partition(" ")
        digests = [hashlib.sha256(t.encode("utf-8")).digest() for t in (token, value.strip())]
        if kind.lower() != "bearer" or not secrets.compare_digest(*digests):
            raise AuthenticationError(
                "This controller wants the token of --worker-token (FASTCHAT_WORKER_TOKEN) "
                "as 'Authorization: Bearer ...'."
            )


def create_app(settings: ControllerSettings) -> Starlette:
    """The controller's ASGI app."""
    controller = Controller(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        controller.registry.start()
        try:
            yield
        finally:
            await controller.registry.stop()
            controller.origins.close()

    app = Starlette(
        routes=controller.routes(),
        lifespan=lifespan,
        exception_handlers={HTTPException: _not_routed},
    )
    app.state.controller = controller
    return app


async def _not_routed(request: Request, error: Exception) -> Response:
    """No such route, or not for this method."""
    shown = f"{request.method} {request.url.path[:100]}"
    if isinstance(error, HTTPException) and error.status_code == 405:
        return error_response(MethodNotAllowedError(f"There is no {shown}; try another method."))
    return error_response(NotFoundError(f"There is no {shown}."))


def main(argv: list[str] | None = None) -> int:
    """Runs the controller until a signal."""
    return run_command(ControllerSettings, _run, argv, prog="python3 -m fastchat.serve.controller")


def _run(settings: ControllerSettings) -> None:
    logs.setup("controller.log", debug=settings.debug)
    if settings.host not in LOCAL_HOSTS and settings.worker_token is None:
        log.warning(
            "listening on %s without --worker-token: whoever reaches it may register workers",
            settings.host,
        )
    app = create_app(settings)
    feed = app.state.controller.registry.feed
    # Watch streams end at the signal; the server would wait for them otherwise.
    sockets = bind(settings.host, settings.port)
    run_loop(serve_sockets(app, settings, sockets=sockets, closing=feed.close))


async def _read(request: Request) -> Mapping[str, Any]:
    return _parse(await read_body(request, BODY_LIMIT_BYTES))


def _parse(raw: bytes) -> Mapping[str, Any]:
    """The JSON object of a body; a malformed one is answered 422 like a wrong field."""
    try:
        return parse_json_object(raw)
    except UsageError as error:
        raise UnprocessableError(error.message) from None


def _read_model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str):
        raise UnprocessableError("'model' must be the name of a model.", param="model")
    return model


if __name__ == "__main__":
    sys.exit(main())
