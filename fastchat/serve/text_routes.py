"""Chat and completions of a worker: the two routes that generate text."""

import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from fastchat import __version__
from fastchat.engine.base import Chunk, Engine
from fastchat.protocol.errors import public_error
from fastchat.protocol.openai_api import ChatRequest, CompletionRequest
from fastchat.protocol.openai_replies import (
    ChatStream,
    CompletionStream,
    ReplyHead,
    chat_choice,
    completion_choice,
    legacy_logprobs,
    new_id,
)
from fastchat.serve.asgi import SSE_DONE, EventStream, json_response, unless_gone
from fastchat.serve.fetch import with_pictures
from fastchat.serve.generation import (
    Answer,
    Shortening,
    UsageSum,
    Writer,
    chat_request,
    complete_answers,
    completion_requests,
    counting_thoughts,
    only_echo,
    run,
    stream_events,
    take_apart,
    template_kwargs,
)
from fastchat.serve.reply_parts import ReplyParser, parser_maker
from fastchat.serve.tool_grammar import check_tools

if TYPE_CHECKING:
    from fastchat.serve.worker import Worker


class TextRoutes:
    """Answers chats and completions by the engines of a worker."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker

    async def chat(self, request: Request) -> Response:
        body, headers = await self._worker.body(request, ChatRequest)
        engine = self._worker.engine(body.model)
        headers = self._worker.ignoring(template_kwargs(body, engine.info)[1], headers)
        await check_tools(body.tools)
        new_parser = parser_maker(body, engine.info)
        head = self._head("chatcmpl", "chat.completion", body.model)
        wanted = chat_request(
            body, engine.info, request_id=head.id, seed=self._worker.settings.seed
        )
        wanted = await with_pictures(wanted, self._worker.pictures)
        usage = UsageSum(body.n)
        shortening = Shortening(is_allowed=not self._worker.settings.strict)
        chunks = run(engine, [wanted], shortening)
        if engine.info.reasoning is not None and body.raw_prompt is None:
            chunks = counting_thoughts(chunks, engine.info.reasoning, usage)
        with_logprobs = body.alternatives is not None
        if body.stream:
            events = self._stream(
                request,
                chunks,
                ChatStream(head, with_usage=body.include_usage),
                usage,
                with_logprobs=with_logprobs,
                with_usage=body.include_usage,
                new_parser=new_parser,
            )
            return EventStream(events, headers=headers, late_headers=shortening.headers)
        answers = await self._complete(request, chunks, usage, count=body.n)
        if new_parser is not None:
            for answer in answers:
                take_apart(answer, new_parser())
        choices = [
            chat_choice(
                i,
                a.text,
                a.finish_reason,
                a.logprobs if with_logprobs else None,
                reasoning=a.reasoning,
                calls=a.calls,
                stop=a.stop,
            )
            for i, a in enumerate(answers)
        ]
        reply = {**head.fields(), "choices": choices, "usage": usage.fields()}
        return json_response(reply, headers={**(headers or {}), **shortening.headers()})

    async def completions(self, request: Request) -> Response:
        body, headers = await self._worker.body(request, CompletionRequest)
        engine = self._worker.engine(body.model)
        head = self._head("cmpl", "text_completion", body.model)
        wanted = completion_requests(
            body, engine.info, request_id=head.id, seed=self._worker.settings.seed
        )
        usage = UsageSum(body.width)
        shortening = Shortening(is_allowed=not self._worker.settings.strict)
        chunks = run(engine, wanted, shortening)
        if body.max_tokens == 0:
            chunks = only_echo(chunks)
        if body.stream:
            writer = CompletionStream(
                head, with_usage=body.include_usage, with_top=bool(body.logprobs)
            )
            events = self._stream(
                request,
                chunks,
                writer,
                usage,
                with_logprobs=body.logprobs is not None,
                with_usage=body.include_usage,
            )
            return EventStream(events, headers=headers, late_headers=shortening.headers)
        answers = await self._complete(
            request, chunks, usage, count=len(wanted) * body.width, has_echo=body.echo
        )
        chosen = _best(answers, width=body.width, keep=body.n)
        choices = [_completion_choice(i, a, body.logprobs) for i, a in enumerate(chosen)]
        reply = {**head.fields(), "choices": choices, "usage": usage.fields()}
        return json_response(reply, headers={**(headers or {}), **shortening.headers()})

    async def _stream(
        self,
        request: Request,
        chunks: AsyncGenerator[tuple[int, Chunk]],
        writer: Writer,
        usage: UsageSum,
        *,
        with_logprobs: bool,
        with_usage: bool,
        new_parser: Callable[[], ReplyParser] | None = None,
    ) -> AsyncGenerator[bytes]:
        """Events of a request that waits for its place first."""
        began = request.state.began
        pieces = stream_events(
            chunks,
            writer,
            usage,
            interval=self._worker.settings.stream_interval,
            with_logprobs=with_logprobs,
            new_parser=new_parser,
        )
        is_first = True
        status = "gone"
        try:
            async with self._worker.admission, aclosing(pieces):
                async for event in pieces:
                    if is_first:
                        self._worker.metrics.first_token(time.perf_counter() - began)
                        is_first = False
                    yield event
            yield (writer.usage(usage.fields()) if with_usage else b"") + SSE_DONE
            status = "200"
        except Exception as error:
            status = str(public_error(error).status)
            raise
        finally:
            self._worker.metrics.finished(request.url.path, status, time.perf_counter() - began)

    async def _complete(
        self,
        request: Request,
        chunks: AsyncGenerator[tuple[int, Chunk]],
        usage: UsageSum,
        *,
        count: int,
        has_echo: bool = False,
    ) -> list[Answer]:
        """Whole answers, unless the client leaves before."""

        def work() -> Awaitable[list[Answer]]:
            return complete_answers(chunks, usage, count=count, has_echo=has_echo)

        return await unless_gone(request, self._worker.admitted(work))

    def _head(self, prefix: str, object: str, model: str) -> ReplyHead:
        return ReplyHead(
            id=new_id(prefix),
            object=object,
            model=model,
            fingerprint=_fingerprint(self._worker.engine(model)),
        )


def _fingerprint(engine: Engine) -> str:
    """Changes when the same request may get another answer."""
    info = engine.info
    parts = (__version__, info.model_path, info.dtype, info.device, info.scheduler, info.template)
    return "fp_" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]


def _best(answers: Sequence[Answer], *, width: int, keep: int) -> list[Answer]:
    """Of each `width` answers to one prompt the `keep` with the best mean log-probability."""
    if width == keep:
        return list(answers)
    chosen: list[Answer] = []
    for i in range(0, len(answers), width):
        ranked = sorted(answers[i : i + width], key=lambda a: a.mean_logprob, reverse=True)
        chosen += ranked[:keep]
    return chosen


def _completion_choice(index: int, answer: Answer, logprobs: int | None) -> dict[str, Any]:
    lists = None
    if logprobs is not None:
        lists = legacy_logprobs(answer.logprobs, answer.text, with_top=logprobs > 0)
    return completion_choice(index, answer.text, answer.finish_reason, lists, answer.stop)
