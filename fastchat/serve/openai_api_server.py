"""The gateway: keys, limits and routing in front of every endpoint; bytes pass as they are.

    python3 -m fastchat.serve.openai_api_server --host localhost --port 8000

Reads the model's name from a body and nothing else; the endpoint validates. Follows the
controller's table, so that a request costs one call inside, and a dead controller stops nobody.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from fastchat import logs
from fastchat.errors import (
    FastChatError,
    MethodNotAllowedError,
    NotFoundError,
    UnknownModelError,
    UsageError,
)
from fastchat.protocol.openai_replies import model_card
from fastchat.serve.access import OPEN_PATHS, Access
from fastchat.serve.aliases import Aliases, with_model
from fastchat.serve.asgi import json_body, parse_json_object, receive_body, serve, told
from fastchat.serve.doors.door import open_door, send_failure
from fastchat.serve.doors.gateway_doors import GatewayDoors
from fastchat.serve.doors.inside import FORWARD_TO
from fastchat.serve.endpoints import LOCAL_HOSTS
from fastchat.serve.forwarder import Forwarder
from fastchat.serve.gateway_metrics import GatewayMetrics
from fastchat.serve.gateway_replies import no_endpoint, send_error, send_json, shown_name
from fastchat.serve.gateway_settings import GatewaySettings
from fastchat.serve.limits import Caller, with_limits
from fastchat.serve.model_field import read_model
from fastchat.serve.providers.endpoint_file import read_endpoint_file
from fastchat.serve.providers.remote import Remote
from fastchat.serve.roster import Roster, context_length
from fastchat.serve.token_check import check_tokens
from fastchat.settings import run_command

if TYPE_CHECKING:
    from fastchat.serve.stored_keys import StoredKeys

log = logging.getLogger(__name__)

FORWARDED = {
    "/v1/chat/completions": "/v1/chat/completions",
    "/v1/completions": "/v1/completions",
    "/v1/embeddings": "/v1/embeddings",
    "/api/v1/chat/completions": "/v1/chat/completions",
    "/tokenize": "/tokenize",
    "/detokenize": "/detokenize",
}
"""Our routes that an endpoint answers, and how the endpoint calls them."""

MODEL_OPTIONAL = frozenset({"/tokenize", "/detokenize"})

LOCAL_PAGES = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


class Gateway:
    """The ASGI app: each request to its route, each failure to its error body."""

    def __init__(self, settings: GatewaySettings) -> None:
        controller_url = None if settings.endpoint else settings.controller_address
        remotes = _remotes(settings.register_api_endpoint_file)
        urls = [url.rstrip("/") for url in settings.endpoint]
        self.roster = Roster(controller_url, urls, remotes, worker_token=settings.worker_token)
        self.forwarder = Forwarder(self.roster, timeout_s=settings.worker_api_timeout)
        self.metrics = GatewayMetrics(self.forwarder, self.roster.router)
        self.access = Access(settings.given_keys(), self._stored_keys(settings.database_url))
        self.aliases = Aliases(settings.aliases)
        self._limit_bytes = int(settings.max_body_mb * 1024 * 1024)
        self.doors = GatewayDoors(
            self._route,
            limit_bytes=self._limit_bytes,
            database_url=settings.database_url,
            has_keys=not self.access.is_open,
            embedding_batch=settings.embedding_batch_size,
        )
        self._created: dict[str, int] = {}  # when each model was first listed
        self._sweeping: asyncio.Task[None] | None = None
        self._plain: dict[str, tuple[str, Callable[..., Awaitable[int]]]] = {
            "/health": ("GET", self._health),
            "/metrics": ("GET", self._metrics),
            "/v1/models": ("GET", self._list_models),
            "/api/v1/token_check": ("POST", self._token_check),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._answer(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case _:  # a websocket: nothing here speaks it
                await send({"type": "websocket.close", "code": 1000})

    async def start(self) -> None:
        """Begins to follow the table and to watch time limits."""
        if self.access.stored is not None:
            await self.access.stored.start()
        await self.roster.start()
        self._sweeping = asyncio.create_task(self.forwarder.sweep())
        await self.doors.start()

    async def stop(self) -> None:
        """Ends what was started."""
        await self.doors.stop()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await self.roster.stop()
        if self.access.stored is not None:
            await self.access.stored.stop()

    def _stored_keys(self, database_url: str | None) -> "StoredKeys | None":
        """The keys of the database; sqlalchemy is loaded for them only."""
        if database_url is None:
            return None
        from fastchat.serve.stored_keys import StoredKeys
        from fastchat.store.database import Database

        database = Database(database_url)  # connects later, but knows a wrong URL now
        return StoredKeys(lambda: database, on_end=self.forwarder.end_key)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            if (await receive())["type"] == "lifespan.startup":
                try:
                    await self.start()
                except FastChatError as error:
                    await send({"type": "lifespan.startup.failed", "message": error.message})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    # ---- one request

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()
        path = scope["path"]
        is_own = path in FORWARDED or path in self._plain
        found = [] if is_own else self.doors.at(path)
        route = path if is_own else found[0][0].path if found else "other"
        try:
            if path not in OPEN_PATHS:
                caller = await self.access.check(scope)
                if caller is not None:
                    send = with_limits(caller, send)
            status = await self._route(scope, receive, send)
        except FastChatError as error:
            status = await (send_failure(found, error, send) if found else send_error(send, error))
        except Exception as error:
            status = await send_error(send, told(error))
        self.metrics.count(route, status, time.perf_counter() - begun)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> int:
        path, method = scope["path"], scope["method"]
        inside = scope.get(FORWARD_TO) or FORWARDED.get(path)
        if inside is not None:
            _need_method(path, method, "POST")
            return await self._forward(inside, scope, receive, send)
        if path in self._plain:
            wanted, handler = self._plain[path]
            _need_method(path, method, wanted)
            return await handler(scope, receive, send)
        if found := self.doors.at(path):
            return await open_door(found, scope, receive, send)
        if path.startswith("/v1/models/"):
            _need_method(path, method, "GET")
            return await self._show_model(path.removeprefix("/v1/models/"), scope, send)
        if path.startswith("/v1/engines/") and path.endswith("/embeddings"):
            _need_method(path, method, "POST")
            model = path.removeprefix("/v1/engines/").removesuffix("/embeddings")
            return await self._embed_by_path(model, scope, receive, send)
        raise NotFoundError(f"There is no route {shown_name(path)}.")

    async def _forward(self, inside: str, scope: Scope, receive: Receive, send: Send) -> int:
        body = await receive_body(scope, receive, self._limit_bytes)
        if body is None:
            return 499
        model = await read_model(body)
        if model is None and inside in MODEL_OPTIONAL:
            caller = await self.access.caller_of(scope)
            names = [n for n in self.roster.router.models() if not caller or caller.allows(n)]
            model = names[0] if len(names) == 1 else None
            if model is not None:
                body = json_body(parse_json_object(body) | {"model": model})
        if model is None:
            raise UsageError("'model' is missing: name the model to ask.", param="model")
        caller = await self.access.caller_of(scope)
        model, body = self._meant(model, body)
        self._need_model(model, caller)
        pieces = inside == "/v1/embeddings" and self.doors.embeddings.split(scope, body)
        if pieces:
            return await self.doors.embeddings.answer(pieces, scope, receive, send)
        return await self.forwarder.forward(
            model, inside, body=body, receive=receive, send=send, caller=caller
        )

    async def _embed_by_path(
        self, path_model: str, scope: Scope, receive: Receive, send: Send
    ) -> int:
        """The old route of embeddings: a body without a model takes the one of the path."""
        body = await receive_body(scope, receive, self._limit_bytes)
        if body is None:
            return 499
        model = await read_model(body)
        if model is None:
            model = path_model
            body = json_body(parse_json_object(body) | {"model": model})
        caller = await self.access.caller_of(scope)
        model, body = self._meant(model, body)
        self._need_model(model, caller)
        if pieces := self.doors.embeddings.split(scope, body):
            return await self.doors.embeddings.answer(pieces, scope, receive, send)
        return await self.forwarder.forward(
            model, "/v1/embeddings", body=body, receive=receive, send=send, caller=caller
        )

    def _meant(self, name: str, body: bytes) -> tuple[str, bytes]:
        """The model that a name means, and the request to it."""
        model = self._model_of(name)
        return (model, body) if model == name else (model, with_model(body, model))

    def _model_of(self, name: str) -> str:
        model = self.aliases.model_of(name)
        return name if model == name or self.roster.router.serving(name) else model

    def _need_model(self, model: str, caller: Caller | None) -> None:
        """Raises what a client should be told when nobody serves `model`, or not to its key."""
        if caller is not None:
            caller.need_model(model)
        router = self.roster.router
        if router.serving(model):
            return
        if router.knows(model) or not self.roster.has_table:
            raise no_endpoint(model)
        raise UnknownModelError(
            f"The model {shown_name(model)} does not exist here; GET /v1/models lists those "
            "that do.",
            param="model",
        )

    # ---- what the gateway answers itself

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> int:
        router = self.roster.router
        value = {
            "status": "ok",
            "controller": "connected" if self.roster.is_connected else "lost",
            "models": len(router.models()),
            "endpoints": len(router.endpoints()),
            "in_flight": self.forwarder.in_flight,
        }
        return await send_json(send, value)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> int:
        text = self.metrics.text()
        kind = b"text/plain; version=0.0.4; charset=utf-8"
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})
        return 200

    async def _list_models(self, scope: Scope, receive: Receive, send: Send) -> int:
        caller = await self.access.caller_of(scope)
        listed = self.aliases.listed(self.roster.router.models())
        cards = [self._card(n, m) for n, m in listed if caller is None or caller.allows(m)]
        return await send_json(send, {"object": "list", "data": cards})

    async def _show_model(self, name: str, scope: Scope, send: Send) -> int:
        model = self._model_of(name)
        self._need_model(model, await self.access.caller_of(scope))
        return await send_json(send, self._card(name, model))

    def _card(self, name: str, model: str) -> dict[str, Any]:
        """What is told of a model under one of its names."""
        created = self._created.setdefault(model, int(time.time()))
        endpoints = self.roster.router.serving(model)
        context = context_length(endpoints, model)
        card = model_card(name, created=created, root=model, context_length=context)
        if any(endpoint.multimodal for endpoint in endpoints):
            card["multimodal"] = True
        for endpoint in endpoints:
            if (remote := self.roster.remotes.get(endpoint.name)) is not None:
                card |= {"owned_by": remote.entry.kind.name, "fastchat": remote.entry.card()}
        return card

    async def _token_check(self, scope: Scope, receive: Receive, send: Send) -> int:
        body = await receive_body(scope, receive, self._limit_bytes)
        if body is None:
            return 499
        caller = await self.access.caller_of(scope)
        if caller is not None:
            caller.charge("", prompt_tokens=0, completion_tokens=0)
        results = await check_tokens(
            parse_json_object(body),
            self.roster,
            model_of=self._model_of,
            need_model=lambda model: self._need_model(model, caller),
            timeout_s=self.forwarder.timeout_s,
        )
        return await send_json(send, {"prompts": results})


def create_app(settings: GatewaySettings) -> ASGIApp:
    """The gateway, with CORS around it where a browser may call."""
    gateway = Gateway(settings)
    origins = settings.allowed_origins
    is_local = settings.host in LOCAL_HOSTS
    if not origins and not (origins is None and is_local):
        return gateway
    from starlette.middleware.cors import CORSMiddleware

    for_browsers = CORSMiddleware(
        gateway,
        allow_origins=origins or (),
        allow_origin_regex=None if origins else LOCAL_PAGES,
        allow_credentials=settings.allow_credentials,
        allow_methods=settings.allowed_methods or (),
        allow_headers=settings.allowed_headers or (),
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        """Spares what is no browser the wrapped `send`, a tenth of a small request's time."""
        is_browser = scope["type"] == "http" and any(h[0] == b"origin" for h in scope["headers"])
        await (for_browsers if is_browser else gateway)(scope, receive, send)

    return app


def main(argv: list[str] | None = None) -> int:
    """Runs the gateway until a signal."""
    prog = "python3 -m fastchat.serve.openai_api_server"
    return run_command(GatewaySettings, _run, argv, prog=prog)


def _run(settings: GatewaySettings) -> None:
    logs.setup("openai_api_server.log", debug=settings.debug)
    is_keyed = settings.api_keys or settings.api_keys_file or settings.database_url
    if settings.host not in LOCAL_HOSTS and not is_keyed:
        log.warning("listening on %s without API keys: open to everyone", settings.host)
    if settings.database_url is not None:
        _check_database(settings.database_url)
    serve(create_app(settings), settings)


def _check_database(url: str) -> None:
    """
    Raises:
        FastChatError: the database cannot be used; better told now than to every client.
    """
    from fastchat.store.database import Database
    from fastchat.store.keys import KeyStore

    database = Database(url)
    try:
        KeyStore(database)
    finally:
        database.close()


def _remotes(path: Path | None) -> list[Remote]:
    """The models of an endpoint file."""
    return [Remote(entry) for entry in read_endpoint_file(path)] if path is not None else []


def _need_method(path: str, method: str, wanted: str) -> None:
    if method == wanted or (wanted == "GET" and method == "HEAD"):
        return
    error = MethodNotAllowedError(
        f"The route {shown_name(path)} takes {wanted}, not {shown_name(method)}."
    )
    error.allow = wanted
    raise error


if __name__ == "__main__":
    sys.exit(main())
