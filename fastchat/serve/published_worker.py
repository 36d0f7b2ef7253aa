"""The published worker routes, for outside clients. Translation only; nothing of ours calls them.

A stream is JSON objects that each end in a zero byte. Their text is cumulative, prompt
included with `echo`; `"stream_mode": "delta"` makes it the new part alone, with its `offset`.
An error is an object with an `error_code`, under status 200.
"""

import base64
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import orjson
from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from fastchat.conversation import Conversation
from fastchat.engine.base import Engine, GenerationRequest, SamplingParams, TokenLogprob
from fastchat.errors import UnknownModelError, UsageError
from fastchat.families.registry import registry
from fastchat.protocol.errors import SERVER_ERROR_MSG, public_error
from fastchat.protocol.openai_api import (
    MAX_NEW_TOKENS,
    MAX_STOPS,
    MAX_TEXTS,
    Body,
    StopText,
    parse,
    stop_list,
)
from fastchat.protocol.openai_replies import legacy_logprobs, new_id
from fastchat.serve.asgi import (
    EventStream,
    Handler,
    json_response,
    parse_json_object,
    read_body,
    unless_gone,
)
from fastchat.serve.generation import check_size, run

if TYPE_CHECKING:
    from fastchat.serve.worker import Worker

log = logging.getLogger(__name__)

_MAX_BODY_BYTES = 32 << 20
_MAX_ALTERNATIVES = 20


class PublishedBody(Body):
    """A worker of one model does not look at `model`."""

    model: Annotated[str, Field(max_length=512)] = ""


class GenerateBody(PublishedBody):
    """`/worker_generate_stream` and `/worker_generate`."""

    prompt: str
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] = -1
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = 256
    stop: Annotated[list[StopText], Field(max_length=MAX_STOPS), BeforeValidator(stop_list)] = (
        Field(default_factory=list)
    )
    stop_token_ids: Annotated[
        list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(max_length=MAX_STOPS)
    ] = Field(default_factory=list)
    echo: bool = True
    logprobs: Annotated[int, Field(ge=0, le=_MAX_ALTERNATIVES)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    images: list[Any] = Field(default_factory=list)
    stream_mode: Literal["cumulative", "delta"] = "cumulative"


class EmbeddingsBody(PublishedBody):
    """`/worker_get_embeddings`."""

    input: Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)]
    encoding_format: Literal["float", "base64"] = "float"


class PromptBody(PublishedBody):
    """`/count_token`."""

    prompt: str


def published_routes(worker: "Worker") -> dict[str, Handler]:
    """The routes by path; all are POST."""
    routes = PublishedRoutes(worker)
    return {
        "/worker_generate_stream": routes.generate_stream,
        "/worker_generate": routes.generate,
        "/worker_get_embeddings": routes.get_embeddings,
        "/worker_get_status": routes.get_status,
        "/count_token": routes.count_token,
        "/worker_get_conv_template": routes.get_conv_template,
        "/model_details": routes.model_details,
    }


class PublishedRoutes:
    """Translates between the published bodies and the worker's engines."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker

    async def generate_stream(self, request: Request) -> Response:
        body = parse(GenerateBody, await read_fields(request))
        return EventStream(
            self._frames(body),
            media_type="application/octet-stream",
            keepalive=None,
            failure=error_frame,
        )

    async def generate(self, request: Request) -> Response:
        body = parse(GenerateBody, await read_fields(request))
        return json_response(await unless_gone(request, self._last(body)))

    async def get_embeddings(self, request: Request) -> Response:
        try:
            body = parse(EmbeddingsBody, await read_fields(request))
            engine = self._engine(body.model)
            found = await self._worker.embedded(request, engine, body.input)
        except Exception as error:
            return json_response(error_object(error))
        vectors = np.asarray(found.vectors, dtype="<f4")
        if body.encoding_format == "base64":
            embedding: Any = [base64.b64encode(v.tobytes()).decode() for v in vectors]
        else:
            embedding = vectors.tolist()
        return json_response({"embedding": embedding, "token_num": sum(found.n_tokens)})

    async def get_status(self, request: Request) -> Response:
        return json_response(self._worker.status())

    async def count_token(self, request: Request) -> Response:
        from fastchat.serve.worker import tokenized

        body = parse(PromptBody, await read_fields(request))
        engine = self._engine(body.model)
        check_size(len(body.prompt), engine.info, param="prompt")
        ids = await tokenized(engine, body.prompt)
        return json_response({"count": len(ids), "error_code": 0})

    async def get_conv_template(self, request: Request) -> Response:
        body = parse(PublishedBody, await read_fields(request))
        return json_response({"conv": conversation_of(self._engine(body.model)).to_published()})

    async def model_details(self, request: Request) -> Response:
        body = parse(PublishedBody, await read_fields(request))
        return json_response({"context_length": self._engine(body.model).info.context_length})

    def _engine(self, model: str) -> Engine:
        """The engine of `model`; where there is only one, whatever `model` says."""
        engines = self._worker.engines
        try:
            return self._worker.engine(model)
        except UnknownModelError:
            if len({id(engine) for engine in engines.values()}) > 1:
                raise
            return next(iter(engines.values()))

    async def _frames(self, body: GenerateBody) -> AsyncGenerator[bytes]:
        async with aclosing(self._objects(body)) as objects:
            async for value in objects:
                yield orjson.dumps(value) + b"\0"

    async def _last(self, body: GenerateBody) -> dict[str, Any]:
        """The last object of the stream."""
        last: dict[str, Any] = {}
        whole = body.model_copy(update={"stream_mode": "cumulative"})
        async with aclosing(self._objects(whole)) as objects:
            async for value in objects:
                last = value
        return last

    async def _objects(self, body: GenerateBody) -> AsyncGenerator[dict[str, Any]]:
        """The stream's objects; a failure is the last of them."""
        try:
            async with self._worker.admission:
                engine = self._engine(body.model)
                async with aclosing(self._generated(engine, body)) as objects:
                    async for value in objects:
                        yield value
        except Exception as error:
            yield error_object(error)

    async def _generated(
        self, engine: Engine, body: GenerateBody
    ) -> AsyncGenerator[dict[str, Any]]:
        from fastchat.serve.worker import tokenized

        if body.images:
            raise UsageError("This worker takes no pictures.", param="images")
        check_size(len(body.prompt), engine.info, param="prompt")
        interval = self._worker.settings.stream_interval
        is_delta = body.stream_mode == "delta"
        n_prompt = len(await tokenized(engine, body.prompt))
        wanted = _generation_request(
            body,
            _room(body, n_prompt, engine.info.context_length),
            seed=self._worker.settings.seed,
        )
        text = ""
        logprobs: list[TokenLogprob] = []
        n_generated = n_unsent = offset = first_logprob = 0
        has_begun = False
        async with aclosing(run(engine, [wanted])) as chunks:
            async for _, chunk in chunks:
                text += chunk.text
                logprobs += chunk.logprobs
                n_generated += len(chunk.token_ids)
                n_unsent += len(chunk.token_ids)
                if chunk.usage is not None:
                    n_prompt = chunk.usage.prompt_tokens
                    n_generated = chunk.usage.completion_tokens
                if chunk.finish_reason is None and (
                    len(text) == offset or (has_begun and n_unsent < interval)
                ):
                    continue
                start = offset if is_delta else 0
                shown = logprobs[first_logprob:] if is_delta else logprobs
                lists = None
                if wanted.logprobs is not None:
                    lists = legacy_logprobs(shown, text[start:], offset=start)
                yield {
                    "text": text[start:],
                    "error_code": 0,
                    "usage": _usage(n_prompt, n_generated),
                    "finish_reason": chunk.finish_reason,
                    "logprobs": lists,
                    **({"offset": offset} if is_delta else {}),
                }
                has_begun, n_unsent = True, 0
                offset, first_logprob = len(text), len(logprobs)


def conversation_of(engine: Engine) -> Conversation:
    """An empty conversation in the template an outside client should write its prompts in."""
    name = engine.info.template
    known = registry()
    if name not in known.template_names:
        name = known.recognise(engine.info.model_path).serving_template
    return Conversation.from_template(known.template(name))


def _room(body: GenerateBody, n_prompt: int, context: int) -> int:
    """New tokens that may be asked for, so that a prompt cut to fit keeps half the context."""
    if n_prompt + body.max_new_tokens <= context:
        return body.max_new_tokens
    return min(body.max_new_tokens, max(context // 2, 1))


def _generation_request(
    body: GenerateBody, max_tokens: int, *, seed: int | None
) -> GenerationRequest:
    return GenerationRequest(
        request_id=new_id("worker"),
        prompt=body.prompt,
        max_tokens=max_tokens,
        sampling=SamplingParams(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            seed=seed if body.seed is None else body.seed,
        ),
        stop=tuple(body.stop),
        stop_token_ids=tuple(body.stop_token_ids),
        logprobs=body.logprobs,
        echo=body.echo,
        truncate_prompt=True,
    )


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def error_object(error: BaseException) -> dict[str, Any]:
    """A failure in the published form."""
    shown = public_error(error)
    if shown is not error:
        log.error("request failed", exc_info=error)
    text = f"{SERVER_ERROR_MSG}\n\n({shown.message})"
    return {"text": text, "error_code": int(shown.error_code)}


def error_frame(error: BaseException) -> bytes:
    """A failure as the last part of a stream."""
    return orjson.dumps(error_object(error)) + b"\0"


async def read_fields(request: Request) -> dict[str, Any]:
    """The JSON object of the body; no body is an empty one."""
    body = await read_body(request, _MAX_BODY_BYTES)
    return parse_json_object(body) if body else {}
