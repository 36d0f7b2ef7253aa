"""An engine without a model: it repeats what was said. For tests and load tests only.

It is opened by a name no folder has: `echo:`, or with options `echo:delay_ms=5,context=4096`.
It follows no grammar, and says so; what it repeats may hold tool calls and reasoning.
One character is one token, its id the code point, so every count can be checked by eye.
Choice i > 0 ends in ` (i)`, and its log-probabilities are better than those of the choices
before it. With `ignore_eos` the text is repeated until the token limit.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fastchat.engine.base import (
    Chunk,
    Embeddings,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerationRequest,
    TokenLogprob,
    Usage,
)
from fastchat.errors import ContextOverflowError, ModelError, UsageError
from fastchat.families.formats import reasoning_format, tool_format
from fastchat.message import ChatOptions, Message

PREFIX = "echo:"
_DIMENSIONS = 32
_VOCABULARY = 0x110000


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoOptions:
    """How the engine behaves; all of it by the text after `echo:`."""

    delay_ms: float = 0.0
    """Before every token."""
    context: int = 4096
    """Context length in tokens."""
    running: int = 128
    """What the engine says it can run together."""
    fail_on: str = ""
    """A prompt that contains this text fails, after `fail_after` tokens."""
    fail_after: int = 0
    tools: str = "hermes"
    """The format in which what is repeated may hold tool calls."""
    reasoning: str = ""
    """The format in which it may hold reasoning, such as `think`; by default none."""


def echo_options(model_path: str) -> EchoOptions:
    """The options in `echo:name=value,name=value`.

    Raises:
        UsageError: an unknown name, or a value that does not fit.
    """
    kinds = {field.name: type(field.default) for field in fields(EchoOptions)}
    values: dict[str, Any] = {}
    for part in filter(None, model_path.removeprefix(PREFIX).split(",")):
        name, _, text = part.partition("=")
        try:
            values[name] = kinds[name](text)
        except (KeyError, ValueError):
            known = ", ".join(kinds)
            raise UsageError(f"{part!r} is no option of the echo engine; use {known}.") from None
    return EchoOptions(**values)


class EchoEngine:
    """Repeats the last user message, or the prompt, a character at a time."""

    def __init__(self, options: EchoOptions | None = None) -> None:
        self.options = options or EchoOptions()
        self.info = EngineInfo(
            model_path=PREFIX,
            family="echo",
            context_length=self.options.context,
            vocab_size=_VOCABULARY,
            dtype="none",
            device="cpu",
            scheduler="echo",
            template="echo",
            max_running=self.options.running,
            tool_format=tool_format(self.options.tools, ""),
            reasoning=reasoning_format(self.options.reasoning or None, ""),
            abilities=frozenset({"generate", "embed", "logprobs", "logit_bias", "seed"}),
        )
        self.aborted_total = 0
        self._running = 0
        self._is_stopping = False
        self._prompt_tokens_total = 0
        self._generated_tokens_total = 0

    async def start(self) -> None:
        self._is_stopping = False

    async def stop(self, drain_s: float = 5.0) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + drain_s
        while self._running and loop.time() < deadline:
            await asyncio.sleep(0.01)
        self._is_stopping = True

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        if request.grammar is not None and not request.grammar.after:
            raise UsageError(
                "The echo engine repeats what was said and follows no grammar.",
                param=request.grammar.param,
            )
        prompt = self._prompt(request)
        room = self.info.context_length - len(prompt)
        if room < 1 and request.truncate_prompt:
            prompt = prompt[-(self.info.context_length - (request.max_tokens or 1)) :]
            room = self.info.context_length - len(prompt)
        if room < 1:
            raise ContextOverflowError(
                f"The prompt has {len(prompt)} tokens; this model's context is "
                f"{self.info.context_length}. Shorten the prompt."
            )
        limit = min(request.max_tokens or room, room)
        self._running += 1
        self._prompt_tokens_total += len(prompt)
        has_ended = False
        try:
            if request.echo:
                logprobs = _prompt_logprobs(prompt) if request.logprobs is not None else ()
                for i in range(request.n):
                    yield Chunk(index=i, text=prompt, logprobs=logprobs)
            source = _last_said(request, prompt)
            answers = [_answer(request, source, limit, index=i) for i in range(request.n)]
            for step in range(max(len(text) for text, _, _ in answers) + 1):
                await asyncio.sleep(self.options.delay_ms / 1000)
                if fault := self._fault(prompt, step):
                    for i in range(request.n):
                        yield fault(i)
                    break
                for i, (text, reason, stop) in enumerate(answers):
                    if step == len(text):
                        usage = Usage(prompt_tokens=len(prompt), completion_tokens=len(text))
                        yield Chunk(index=i, finish_reason=reason, usage=usage, stop=stop)
                    elif step < len(text):
                        self._generated_tokens_total += 1
                        yield _token_chunk(text[step], i, request.logprobs)
            has_ended = True
        finally:
            self._running -= 1
            self.aborted_total += not has_ended

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> Embeddings:
        await asyncio.sleep(self.options.delay_ms / 1000)
        said = [t if isinstance(t, str) else self.detokenize(t) for t in texts]
        vectors = np.zeros((len(said), _DIMENSIONS), dtype=np.float32)
        for row, text in zip(vectors, said, strict=True):
            np.add.at(row, [ord(c) % _DIMENSIONS for c in text], 1.0)
            row /= math.sqrt(float(row @ row)) or 1.0
        return Embeddings(vectors=vectors, n_tokens=tuple(len(t) for t in said))  # type: ignore[arg-type]

    def render(self, messages: Sequence[Message], options: ChatOptions = ChatOptions()) -> str:
        said = [f"tool: {json.dumps(tool['function'])}\n" for tool in options.tools]
        for m in messages:
            said.append(f"{m.role}: {m.text}\n")
            said += [f"call: {call.name}({call.arguments})\n" for call in m.tool_calls]
        if options.slot == "continued":
            return "".join(said)[:-1]
        return "".join(said) + ("assistant: " if options.slot == "open" else "")

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(c) for c in text]

    def detokenize(self, ids: Sequence[int]) -> str:
        for i in ids:
            if not 0 <= i < _VOCABULARY or 0xD800 <= i < 0xE000:
                raise UsageError(f"Token id {i} is not in this model's vocabulary.")
        return "".join(map(chr, ids))

    def stats(self) -> EngineStats:
        return EngineStats(
            running=self._running,
            prompt_tokens_total=self._prompt_tokens_total,
            generated_tokens_total=self._generated_tokens_total,
        )

    def _prompt(self, request: GenerationRequest) -> str:
        if request.messages is not None:
            return self.render(request.messages, request.options)
        prompt = request.prompt or ""
        return prompt if isinstance(prompt, str) else self.detokenize(prompt)

    def _fault(self, prompt: str, step: int) -> Callable[[int], Chunk] | None:
        """The chunk that ends each choice before its time, if something does."""
        usage = Usage(prompt_tokens=len(prompt), completion_tokens=step)
        if self._is_stopping:
            return lambda i: Chunk(index=i, finish_reason="abort", usage=usage)
        options = self.options
        if options.fail_on and options.fail_on in prompt and step >= options.fail_after:
            error = ModelError("The echo engine failed as it was told to.")
            return lambda i: Chunk(index=i, finish_reason="error", usage=usage, error=error)
        return None


def _last_said(request: GenerationRequest, prompt: str) -> str:
    """What is to be repeated."""
    if request.messages is None:
        return prompt
    return next((m.text for m in reversed(request.messages) if m.role == "user"), "")


def _answer(
    request: GenerationRequest, source: str, limit: int, *, index: int
) -> tuple[str, FinishReason, str | None]:
    """The whole text of choice `index`, why it ends, and the stop string that ended it."""
    bias = request.sampling.logit_bias
    text = source + (f" ({index})" if index else "")
    text = "".join(c for c in text if bias.get(ord(c), 0.0) > -100)
    if request.ignore_eos:
        text = (text or ".") * math.ceil(limit / max(len(text), 1))
    reason: FinishReason = "length" if len(text) > limit or request.ignore_eos else "stop"
    text = text[:limit]
    stops = [*request.stop, *(chr(i) for i in request.stop_token_ids if 0 <= i < _VOCABULARY)]
    places = [(text.find(stop), stop) for stop in stops if stop in text]
    if not places:
        return text, reason, None
    place, stop = min(places, key=lambda found: found[0])
    return text[:place], "stop", stop if stop in request.stop else None


def _token_chunk(token: str, index: int, logprobs: int | None) -> Chunk:
    if logprobs is None:
        return Chunk(index=index, text=token, token_ids=(ord(token),))
    value = -1.0 / (index + 1)
    top = tuple((chr(97 + k), 97 + k, value - k) for k in range(logprobs))
    entry = TokenLogprob(token, ord(token), value, top)
    return Chunk(index=index, text=token, token_ids=(ord(token),), logprobs=(entry,))


def _prompt_logprobs(prompt: str) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(c, ord(c), -2.0 if k else None) for k, c in enumerate(prompt))
