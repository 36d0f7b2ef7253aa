"""Worker: one HTTP process around its engines. It speaks the OpenAI API itself.

Admission, the table of routes and the short ones among them stand here; chat and completions
are `text_routes.py`'s, bodies and replies are `protocol/`'s.
"""

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastchat.engine.adapted import AdaptedEngine
from fastchat.engine.base import Embeddings, Engine
from fastchat.errors import NotFoundError, UnknownModelError, UsageError
from fastchat.families.registry import registry
from fastchat.message import ChatOptions
from fastchat.protocol.openai_api import (
    Body,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
    ignored_fields,
    parse,
    slot_of,
)
from fastchat.protocol.openai_replies import model_card
from fastchat.serve.admission import Admission
from fastchat.serve.asgi import (
    EventStream,
    Handler,
    answering,
    error_response,
    json_response,
    parse_json_object,
    read_body,
    unless_gone,
)
from fastchat.serve.fetch import PictureFetcher
from fastchat.serve.generation import check_size
from fastchat.serve.rank_routes import RankRoutes
from fastchat.serve.text_routes import TextRoutes
from fastchat.serve.token_gate import TokenGate
from fastchat.serve.worker_metrics import WorkerMetrics
from fastchat.serve.worker_settings import WorkerSettings

MAX_BODY_BYTES = 32 << 20
_QUEUE_FACTOR = 8
_DRAIN_S = 5.0
_LONG_TEXT = 20_000
"""Characters from which on tokenizing leaves the event loop."""
_FIELD_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_NAMED_FIELDS = 16

B = TypeVar("B", bound=Body)
T = TypeVar("T")


class Worker:
    """The OpenAI API over one engine, or over several told apart by model name.

    Args:
        engines: started engines by model name; names may share an engine.
        settings: limits; the addresses in it are the caller's business.
        extra_routes: more routes, for the same error handling and admission.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        settings: WorkerSettings,
        *,
        extra_routes: Callable[["Worker"], Mapping[str, Handler]] | None = None,
    ) -> None:
        self.engines = dict(engines)
        self.settings = settings
        # Adapters are answered by their base, which may have no name of its own.
        below = (e.base if isinstance(e, AdaptedEngine) else e for e in self.engines.values())
        self.distinct = list({id(engine): engine for engine in below}.values())
        limit = settings.limit_worker_concurrency or sum(
            engine.info.max_running for engine in self.distinct
        )
        max_queue = settings.max_queue
        self.admission = Admission(limit, _QUEUE_FACTOR * limit if max_queue is None else max_queue)
        self.metrics = WorkerMetrics(self.engines, self.admission)
        self._created = int(time.time())
        self.pictures = PictureFetcher() if settings.allow_image_urls else None
        """Fetches what requests name by address."""
        self.on_change: Callable[[], None] = _nothing
        """Called when model names have come or gone."""
        texts = TextRoutes(self)
        posts = {
            "/v1/chat/completions": texts.chat,
            "/v1/completions": texts.completions,
            "/v1/embeddings": self._embeddings,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
            **RankRoutes(self).posts(),
            **(extra_routes(self) if extra_routes else {}),
        }
        gets = {
            "/v1/models": self._models,
            "/v1/models/{name:path}": self._model,
            "/health": self._health,
            "/metrics": self._metrics,
        }
        self.app = Starlette(
            routes=[
                *(
                    Route(path, self._counted(path, h), methods=["POST"])
                    for path, h in posts.items()
                ),
                *(Route(path, answering(h), methods=["GET"]) for path, h in gets.items()),
            ],
            exception_handlers={HTTPException: _not_routed},
            middleware=[Middleware(TokenGate, token=token)]
            if (token := settings.worker_token) is not None
            else [],
        )
        self.app.router.redirect_slashes = False

    async def stop(self) -> None:
        """Refuses new requests, lets those under way end for a while, aborts the rest."""
        self.admission.close()
        await asyncio.gather(*(engine.stop(_DRAIN_S) for engine in self.distinct))
        if self.pictures is not None:
            await self.pictures.close()

    def status(self) -> dict[str, Any]:
        """The worker's load, in the published words."""
        return {
            "model_names": list(self.engines),
            "speed": 1,
            "queue_length": self.admission.queue_length,
        }

    def add(self, name: str, engine: Engine) -> None:
        """Serves one model more; its machinery must be there already."""
        self.engines[name] = engine
        self.on_change()

    def remove(self, name: str) -> None:
        """Serves a model no longer; answers under way go on."""
        del self.engines[name]
        self.on_change()

    def engine(self, model: str) -> Engine:
        """The engine of a model.

        Raises:
            UnknownModelError: this worker does not have it.
        """
        engine = self.engines.get(model)
        if engine is None:
            names = ", ".join(self.engines)
            raise UnknownModelError(
                f"The model {model[:100]!r} does not exist here; use one of: {names}.",
                param="model",
            )
        return engine

    async def admitted(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives, done in a place of its own."""
        async with self.admission:
            return await work()

    async def embedded(
        self, request: Request, engine: Engine, texts: Sequence[str | Sequence[int]]
    ) -> Embeddings:
        """The vectors of `texts`, unless the client leaves before.

        Raises:
            UsageError: the model makes none, or a text is absurdly long.
        """
        info = engine.info
        if "embed" not in info.abilities:
            raise UsageError("This model makes no embeddings; choose another.", param="model")
        for text in texts:
            check_size(len(text), info, param="input")

        async def work() -> Embeddings:
            if not self.settings.embed_in_truncate:
                return await engine.embed(texts)
            ids = [await tokenized(engine, t) if isinstance(t, str) else t for t in texts]
            return await engine.embed([i[: info.context_length] for i in ids])

        return await unless_gone(request, self.admitted(work))

    async def _embeddings(self, request: Request) -> Response:
        body, headers = await self.body(request, EmbeddingRequest)
        engine = self.engine(body.model)
        found = await self.embedded(request, engine, body.input)
        vectors = np.asarray(found.vectors, dtype=np.float32)
        if body.dimensions is not None:
            vectors = _shortened(vectors, body.dimensions)
        as_text = body.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": i,
                "embedding": base64.b64encode(v.tobytes()).decode() if as_text else v,
            }
            for i, v in enumerate(vectors)
        ]
        n_tokens = sum(found.n_tokens)
        usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        reply = {"object": "list", "data": data, "model": body.model, "usage": usage}
        return Response(
            orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY),
            headers=headers,
            media_type="application/json",
        )

    async def _tokenize(self, request: Request) -> Response:
        body, headers = await self.body(request, TokenizeRequest)
        engine = self.engine(body.model)
        text, add_special_tokens = body.prompt, body.add_special_tokens
        if text is None:
            options = ChatOptions(
                tools=tuple(tool.wire() for tool in body.tools),
                template_kwargs=body.chat_template_kwargs,
                slot=slot_of(body),
            )
            unread = body.chat_template_kwargs.keys() - engine.info.template_variables
            named = [f"chat_template_kwargs.{name}" for name in sorted(unread)]
            headers = self.ignoring(named, headers)
            text = engine.render([m.message() for m in body.messages], options)
            # A chat template writes the special tokens itself, a template of ours does not.
            is_ours = engine.info.template in registry().template_names
            add_special_tokens = add_special_tokens and is_ours
        check_size(len(text), engine.info, param="prompt")
        ids = await tokenized(engine, text, add_special_tokens=add_special_tokens)
        reply = {
            "count": len(ids),
            "max_model_len": engine.info.context_length,
            "tokens": ids,
        }
        return json_response(reply, headers=headers)

    async def _detokenize(self, request: Request) -> Response:
        body, headers = await self.body(request, DetokenizeRequest)
        engine = self.engine(body.model)
        largest = max(body.tokens, default=0)
        if largest >= engine.info.vocab_size:
            raise UsageError(
                f"Token id {largest} is not in this model's vocabulary of "
                f"{engine.info.vocab_size}.",
                param="tokens",
            )
        text = await asyncio.to_thread(engine.detokenize, body.tokens)
        return json_response({"prompt": text}, headers=headers)

    async def _models(self, request: Request) -> Response:
        return json_response({"object": "list", "data": [self._card(n) for n in self.engines]})

    async def _model(self, request: Request) -> Response:
        self.engine(name := request.path_params["name"])
        return json_response(self._card(name))

    def _card(self, name: str) -> dict[str, Any]:
        context_length = self.engines[name].info.context_length
        return model_card(name, created=self._created, root=name, context_length=context_length)

    async def _health(self, request: Request) -> Response:
        admission = self.admission
        reply = {
            "status": "stopping" if admission.is_closed else "ok",
            "models": list(self.engines),
            "running": admission.running,
            "queue_length": admission.queue_length,
        }
        return json_response(reply, 503 if admission.is_closed else 200)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def body(self, request: Request, kind: type[B]) -> tuple[B, dict[str, str] | None]:
        """The checked body, and headers that tell which of its fields were ignored."""
        fields = parse_json_object(await read_body(request, MAX_BODY_BYTES))
        body = parse(kind, fields)
        return body, self.ignoring(ignored_fields(kind, fields), None)

    def ignoring(
        self, ignored: Sequence[str], headers: dict[str, str] | None
    ) -> dict[str, str] | None:
        """`headers`, and that which tells of more fields that are without effect.

        Raises:
            UsageError: the operator wants such fields refused.
        """
        if not ignored:
            return headers
        if self.settings.strict:
            raise UsageError(f"`{ignored[0][:64]}` has no meaning here.", param=ignored[0][:64])
        before = [headers["x-fastchat-ignored"]] if headers else []
        named = filter(_FIELD_NAME.fullmatch, ignored[:_MAX_NAMED_FIELDS])
        return {"x-fastchat-ignored": ", ".join([*before, *named])}

    def _counted(self, path: str, handler: Handler) -> Handler:
        """`handler` with its failures answered and its outcome counted."""

        answer_it = answering(handler)

        async def answer(request: Request) -> Response:
            request.state.began = began = time.perf_counter()
            response = await answer_it(request)
            if not isinstance(response, EventStream):  # a stream is counted at its end
                status = "gone" if response.status_code == 499 else str(response.status_code)
                self.metrics.finished(path, status, time.perf_counter() - began)
            return response

        return answer


def _nothing() -> None:
    """What a worker that nobody watches calls when its models change."""


async def _not_routed(request: Request, error: Exception) -> Response:
    """No such route, or not with this method."""
    assert isinstance(error, HTTPException)
    reply = error_response(NotFoundError(f"There is no {request.method} {request.url.path[:100]}."))
    reply.status_code = error.status_code
    reply.headers.update(error.headers or {})
    return reply


async def tokenized(engine: Engine, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """Token ids of `text`; a long text is tokenized beside the event loop."""

    def work() -> list[int]:
        return engine.tokenize(text, add_special_tokens=add_special_tokens)

    return work() if len(text) < _LONG_TEXT else await asyncio.to_thread(work)


def _shortened(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """The first `dimensions` of each vector, of length one again.

    Raises:
        UsageError: the model has fewer.
    """
    if dimensions > vectors.shape[1]:
        raise UsageError(
            f"`dimensions` must be at most {vectors.shape[1]}, not {dimensions}.",
            param="dimensions",
        )
    cut = vectors[:, :dimensions]
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.ascontiguousarray(cut / np.where(norms > 0, norms, 1), dtype=np.float32)
