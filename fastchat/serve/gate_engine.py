"""A worker of another project as an engine: calls of the published class behind the protocol."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from fastchat.engine.base import (
    Chunk,
    Embeddings,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerationRequest,
    Usage,
)
from fastchat.errors import ModelError, UsageError
from fastchat.message import ChatOptions, Message
from fastchat.model.prompt_end import prompt_of
from fastchat.model.tool_text import plain_messages

if TYPE_CHECKING:
    from fastchat.serve.base_model_worker import BaseModelWorker

Params = dict[str, Any]

CONTEXT_LENGTH = 2048
"""Of a worker that does not say."""


class GateEngine:
    """A `BaseModelWorker` as an engine, so that it answers the OpenAI API as well."""

    def __init__(self, gate: "BaseModelWorker", *, embeds: bool) -> None:
        self._gate = gate
        self.info = EngineInfo(
            model_path=gate.model_path,
            family="",
            context_length=gate.context_len or CONTEXT_LENGTH,
            vocab_size=len(gate.tokenizer) if gate.tokenizer is not None else 0,
            dtype="",
            device="",
            scheduler="gate",
            template=gate.conv.name,
            max_running=gate.limit_worker_concurrency,
            abilities=frozenset({"generate", "embed"} if embeds else {"generate"}),
        )
        self._running = 0

    async def start(self) -> None: ...

    async def stop(self, drain_s: float = 5.0) -> None:
        deadline = asyncio.get_running_loop().time() + drain_s
        while self._running and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        if request.grammar is not None and not request.grammar.after:
            param = request.grammar.param
            raise UsageError("This worker cannot hold an answer to a grammar.", param=param)
        if request.logprobs is not None:
            raise UsageError("This worker reports no log-probabilities.", param="logprobs")
        prompt = self._prompt(request)
        self._running += 1
        try:
            for index in range(request.n):
                async for chunk in self._choice(request, prompt, index=index):
                    yield chunk
        finally:
            self._running -= 1

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> Embeddings:
        words = [t if isinstance(t, str) else self.detokenize(t) for t in texts]
        found = await called(self._gate.get_embeddings, {"input": words})
        if found.get("error_code"):
            raise ModelError("The worker could not embed these texts.")
        counts = (found["token_num"], *[0] * (len(words) - 1))  # only their sum is published
        return Embeddings(vectors=found["embedding"], n_tokens=counts)

    def render(self, messages: Sequence[Message], options: ChatOptions = ChatOptions()) -> str:
        template = self._gate.conv.template
        if options.tools or any(m.role == "tool" or m.tool_calls for m in messages):
            system = template.system_message
            messages = plain_messages(messages, options.tools, self.info.tool_format, system=system)
        return prompt_of(template, messages, slot=options.slot)

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self._gate.token_ids(text)

    def detokenize(self, ids: Sequence[int]) -> str:
        if self._gate.tokenizer is None:
            raise UsageError("This worker takes no token ids; send text.", param="prompt")
        return self._gate.tokenizer.decode(list(ids))

    def stats(self) -> EngineStats:
        return EngineStats(running=self._running)

    def _prompt(self, request: GenerationRequest) -> str:
        if request.messages is not None:
            return self.render(request.messages, request.options)
        prompt = request.prompt or ""
        return prompt if isinstance(prompt, str) else self.detokenize(prompt)

    async def _choice(
        self, request: GenerationRequest, prompt: str, *, index: int
    ) -> AsyncGenerator[Chunk]:
        text = ""
        reason: FinishReason = "stop"
        usage: dict[str, int] = {}
        params = self._params(request, prompt)
        async with aclosing(self._gate.objects(params)) as objects:
            async for value in objects:
                if value.get("error_code"):
                    raise ModelError("The worker failed while it generated.")
                usage = value.get("usage") or usage
                reason = value.get("finish_reason") or reason
                new = value["text"][len(text) :]
                if new:
                    text += new
                    yield Chunk(index=index, text=new)
        counts = Usage(
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
        )
        yield Chunk(index=index, finish_reason=reason, usage=counts)

    def _params(self, request: GenerationRequest, prompt: str) -> Params:
        sampling = request.sampling
        stop = [*request.stop, *self._gate.conv.template.stop]
        return {
            "model": self._gate.model_names[0],
            "prompt": prompt,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "repetition_penalty": sampling.repetition_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "seed": sampling.seed,
            "max_new_tokens": request.max_tokens or self.info.context_length,
            "stop": stop or None,
            "stop_token_ids": [*request.stop_token_ids, *self._gate.conv.template.stop_token_ids],
            "echo": request.echo,
        }


async def gate_objects(frames: Any) -> AsyncGenerator[dict[str, Any]]:
    """JSON objects of `frames`, a generator of bytes; one that blocks runs in a thread."""
    is_async = hasattr(frames, "__anext__")
    source = frames if is_async else iterate_in_threadpool(frames)
    left = b""
    try:
        async for part in source:
            *whole, left = (left + part).split(b"\0")
            for frame in whole:
                yield json.loads(frame)
    finally:
        if is_async:
            await frames.aclose()
        else:
            with contextlib.suppress(ValueError):  # a step of it is running in the thread
                frames.close()


async def called(function: Callable[[Params], Any], params: Params) -> Any:
    """What `function` gives; one that is no coroutine may block, and runs in a thread."""
    if asyncio.iscoroutinefunction(function):
        return await function(params)
    result = await run_in_threadpool(function, params)
    return await cast(Awaitable[Any], result) if asyncio.iscoroutine(result) else result
