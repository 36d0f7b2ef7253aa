"""From a body of the API to the engine and back: requests, pieces of a stream, whole answers."""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, cast

from fastchat.engine.base import (
    Chunk,
    Engine,
    EngineInfo,
    GenerationRequest,
    SamplingParams,
    TokenLogprob,
    Usage,
)
from fastchat.errors import ContextOverflowError, ModelError, UnavailableError, UsageError
from fastchat.families.formats import ReasoningFormat
from fastchat.message import ChatOptions, ToolCall
from fastchat.protocol.chat_pieces import CallPiece, ReasoningPiece, TextPiece
from fastchat.protocol.openai_api import ChatRequest, CompletionRequest, Generation, slot_of
from fastchat.protocol.openai_replies import usage_fields
from fastchat.serve.reasoning import ThoughtCount
from fastchat.serve.reply_parts import Part, ReplyParser
from fastchat.serve.tool_grammar import chat_grammar, constraint_grammar

_MAX_CHARACTERS_PER_TOKEN = 512
"""No vocabulary has longer tokens, so a longer prompt is refused without being tokenized."""
_MERGE_QUEUE = 64

T = TypeVar("T")


def chat_request(
    body: ChatRequest, info: EngineInfo, *, request_id: str, seed: int | None
) -> GenerationRequest:
    """What the engine is asked for a chat. `seed` stands in where the body has none."""
    messages = tuple(m.message() for m in body.messages)
    if body.tools and body.raw_prompt is not None:
        raise UsageError("`tools` need `messages` as a list, not a text.", param="tools")
    calls_tools = bool(body.tools) and body.tool_choice.mode != "none"
    options = ChatOptions(
        tools=tuple(tool.wire() for tool in body.tools) if calls_tools else (),
        template_kwargs=template_kwargs(body, info)[0],
        slot=slot_of(body),
    )
    if any(m.images for m in messages) and "vision" not in info.abilities:
        raise UsageError("This model does not take pictures; send text only.", param="messages")
    size = sum(len(m.text) for m in messages) + len(body.raw_prompt or "")
    check_size(size, info, param="messages")
    return GenerationRequest(
        request_id=request_id,
        messages=messages or None,
        options=options,
        prompt=body.raw_prompt,
        max_tokens=body.token_limit,
        n=body.n,
        sampling=sampling_params(body, seed),
        stop=tuple(body.stop),
        stop_token_ids=tuple(body.stop_token_ids),
        ignore_eos=body.ignore_eos,
        logprobs=body.alternatives,
        grammar=chat_grammar(body, info),
        marks=_marks(body, info, calls_tools=calls_tools),
    )


def _marks(body: ChatRequest, info: EngineInfo, *, calls_tools: bool) -> tuple[str, ...]:
    """The special tokens by which an answer is taken apart."""
    if calls_tools or (info.tool_format.shape == "channels" and body.raw_prompt is None):
        return tuple(info.special_ids)
    reasoning = info.reasoning
    own = () if reasoning is None else (reasoning.open, reasoning.close)
    return tuple(mark for mark in info.special_ids if any(mark in text for text in own))


def template_kwargs(body: ChatRequest, info: EngineInfo) -> tuple[dict[str, Any], list[str]]:
    """Variables for the chat template, and the fields of the body that it does not read."""
    known = info.template_variables
    values = dict(body.chat_template_kwargs)
    ignored = [f"chat_template_kwargs.{name}" for name in values if name not in known]
    effort = body.reasoning_effort
    if effort is None:
        return values, ignored
    if "reasoning_effort" in known:
        values.setdefault("reasoning_effort", effort)
    elif "enable_thinking" in known:
        values.setdefault("enable_thinking", effort != "none")
    else:
        ignored.append("reasoning_effort")
    return values, ignored


def completion_requests(
    body: CompletionRequest, info: EngineInfo, *, request_id: str, seed: int | None
) -> list[GenerationRequest]:
    """What the engine is asked for each prompt of a completion."""
    ranked = body.width > body.n
    grammar = constraint_grammar(body.constraint, info)
    for prompt in body.prompt:
        check_size(len(prompt), info, param="prompt")
    return [
        GenerationRequest(
            request_id=f"{request_id}-{number}",
            prompt=prompt,
            max_tokens=max(body.max_tokens, 1),
            n=body.width,
            sampling=sampling_params(body, seed),
            stop=tuple(body.stop),
            stop_token_ids=tuple(body.stop_token_ids),
            ignore_eos=body.ignore_eos,
            logprobs=0 if ranked and body.logprobs is None else body.logprobs,
            echo=body.echo,
            grammar=grammar,
        )
        for number, prompt in enumerate(body.prompt)
    ]


def sampling_params(body: Generation, seed: int | None) -> SamplingParams:
    return SamplingParams(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=body.logit_bias,
        seed=seed if body.seed is None else body.seed,
    )


def check_size(size: int, info: EngineInfo, *, param: str) -> None:
    """Refuses a prompt that no tokenizer could make short enough.

    Raises:
        ContextOverflowError: more characters than the longest tokens could cover.
    """
    if size > info.context_length * _MAX_CHARACTERS_PER_TOKEN:
        raise ContextOverflowError(
            f"The prompt has {size} characters; this model's context is "
            f"{info.context_length} tokens. Shorten the prompt.",
            param=param,
        )


@dataclass(slots=True, kw_only=True)
class Shortening:
    """Whether an answer that may be longer than the context has room for is shortened to it."""

    is_allowed: bool = True
    """Otherwise it is refused."""
    has_happened: bool = False
    """Known with the first chunk."""

    def headers(self) -> dict[str, str]:
        """The header of a reply that tells of it."""
        return {"x-fastchat-truncated": "max_tokens"} if self.has_happened else {}


async def run(
    engine: Engine, requests: Sequence[GenerationRequest], shortening: Shortening | None = None
) -> AsyncGenerator[tuple[int, Chunk]]:
    """Chunks of all requests as they come, with the running number of their choice.

    Closing the iterator aborts all of them; so does the failure of one.

    Args:
        shortening: is told whether an answer was shortened.

    Raises:
        UsageError: a request cannot be served.
        ModelError: the engine failed.
        UnavailableError: the engine stops.
    """
    note = shortening or Shortening()
    if len(requests) == 1:
        async with aclosing(_shortened(engine, requests[0], note)) as chunks:
            async for chunk in chunks:
                yield chunk.index, _sound(chunk)
        return
    bases = [i * requests[0].n for i in range(len(requests))]
    async with aclosing(_merged([_shortened(engine, r, note) for r in requests])) as merged:
        async for source, chunk in merged:
            yield bases[source] + chunk.index, _sound(chunk)


async def _shortened(
    engine: Engine, request: GenerationRequest, note: Shortening
) -> AsyncGenerator[Chunk]:
    """The engine's chunks; an answer that may be longer than the context has room for is
    shortened, as published, and only a prompt that leaves no room at all is refused.
    """
    try:
        async with _closing(engine.generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk
        return
    except ContextOverflowError:
        if request.max_tokens is None or request.truncate_prompt or not note.is_allowed:
            raise
    note.has_happened = True
    whole_room = replace(request, max_tokens=None)
    async with _closing(engine.generate(whole_room)) as chunks:
        async for chunk in chunks:
            yield chunk


def _closing(source: AsyncIterator[Chunk]) -> aclosing[AsyncGenerator[Chunk]]:
    """Closes `source`, an engine's generator, at the end of the block."""
    return aclosing(cast(AsyncGenerator[Chunk], source))


def _sound(chunk: Chunk) -> Chunk:
    """`chunk`, unless it says that the answer has failed."""
    if chunk.finish_reason == "error":
        raise chunk.error or ModelError("The model failed while it generated.")
    if chunk.finish_reason == "abort":
        raise UnavailableError("The answer was cut off because the worker stops; try again.")
    return chunk


async def _merged(sources: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[tuple[int, T]]:
    """Items of all sources in the order they come, each with its source's number."""
    queue: asyncio.Queue[tuple[int, T | BaseException | None]] = asyncio.Queue(_MERGE_QUEUE)

    async def feed(number: int, source: AsyncGenerator[T]) -> None:
        try:
            async with aclosing(source) as items:
                async for item in items:
                    await queue.put((number, item))
        except Exception as error:
            await queue.put((number, error))
        else:
            await queue.put((number, None))

    tasks = [asyncio.ensure_future(feed(i, source)) for i, source in enumerate(sources)]
    try:
        live = len(tasks)
        while live:
            number, item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                live -= 1
            else:
                yield number, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True, kw_only=True)
class Answer:
    """One choice: the whole of it, or what of it has not been sent yet."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    n_tokens: int = 0
    mean_logprob: float = -math.inf
    """Over the generated tokens."""
    finish_reason: str = "stop"
    stop: str | None = None
    """The stop string of the request that ended it."""
    has_begun: bool = False
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)


class UsageSum:
    """Usage of a request over all its choices; a prompt counts once, whatever `n` is."""

    def __init__(self, width: int) -> None:
        self._width = width
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = 0
        self.reasoning_tokens: int | None = None

    def add(self, index: int, usage: Usage) -> None:
        self.completion_tokens += usage.completion_tokens
        if index % self._width == 0:
            self.prompt_tokens += usage.prompt_tokens
            self.cached_tokens += usage.cached_tokens

    def fields(self) -> dict[str, Any]:
        return usage_fields(
            prompt=self.prompt_tokens,
            completion=self.completion_tokens,
            cached=self.cached_tokens,
            reasoning=self.reasoning_tokens,
        )


async def counting_thoughts(
    chunks: AsyncGenerator[tuple[int, Chunk]], form: ReasoningFormat, usage: UsageSum
) -> AsyncGenerator[tuple[int, Chunk]]:
    """`chunks`, whose tokens of reasoning are added to the usage as they pass."""
    usage.reasoning_tokens = 0
    counts: dict[int, ThoughtCount] = {}
    async with aclosing(chunks):
        async for index, chunk in chunks:
            count = counts.get(index) or counts.setdefault(index, ThoughtCount(form))
            usage.reasoning_tokens += count.feed(chunk.text, len(chunk.token_ids))
            yield index, chunk


async def complete_answers(
    chunks: AsyncGenerator[tuple[int, Chunk]], usage: UsageSum, *, count: int, has_echo: bool
) -> list[Answer]:
    """All `count` choices, whole. With `has_echo` the first chunk of each is its prompt."""
    answers = [Answer() for _ in range(count)]
    texts: list[list[str]] = [[] for _ in range(count)]
    values: list[list[float]] = [[] for _ in range(count)]
    async with aclosing(chunks):
        async for index, chunk in chunks:
            answer = answers[index]
            if answer.has_begun or not has_echo:
                values[index] += [t.logprob for t in chunk.logprobs if t.logprob is not None]
            answer.has_begun = True
            texts[index].append(chunk.text)
            answer.logprobs += chunk.logprobs
            answer.finish_reason = chunk.finish_reason or answer.finish_reason
            answer.stop = chunk.stop or answer.stop
            if chunk.usage is not None:
                usage.add(index, chunk.usage)
    for answer, parts, logprobs in zip(answers, texts, values, strict=True):
        answer.text = "".join(parts)
        answer.mean_logprob = sum(logprobs) / len(logprobs) if logprobs else -math.inf
    return answers


def take_apart(answer: Answer, parser: ReplyParser) -> None:
    """Moves the reasoning and the calls out of a whole answer's text."""
    texts: list[str] = []
    thoughts: list[str] = []
    arguments: list[list[str]] = []
    heads: list[tuple[str, str]] = []
    for part in parser.feed(answer.text, is_last=True):
        match part:
            case TextPiece():
                texts.append(part.text)
            case ReasoningPiece():
                thoughts.append(part.text)
            case CallPiece():
                if part.name is not None:
                    heads.append((part.id or "", part.name))
                    arguments.append([])
                arguments[part.index].append(part.arguments)
    answer.text, answer.reasoning = "".join(texts), "".join(thoughts)
    answer.calls = [
        ToolCall(id=id, name=name, arguments="".join(pieces))
        for (id, name), pieces in zip(heads, arguments, strict=True)
    ]
    answer.finish_reason = public_reason(answer.finish_reason, parser)


def public_reason(reason: str, parser: ReplyParser | None) -> str:
    """Why an answer ended, in OpenAI's words."""
    has_called = parser is not None and parser.n_calls > 0
    return "tool_calls" if has_called and reason == "stop" else reason


class Writer(Protocol):
    """Makes the events of one kind of stream."""

    def start(self, index: int) -> bytes: ...
    def part(self, index: int, part: Part, logprobs: Sequence[Any] | None = None) -> bytes: ...
    def piece(self, index: int, text: str, logprobs: Sequence[Any] | None = None) -> bytes: ...
    def finish(self, index: int, reason: str, stop: str | None = None) -> bytes: ...
    def usage(self, usage: dict[str, Any]) -> bytes: ...


async def stream_events(
    chunks: AsyncGenerator[tuple[int, Chunk]],
    writer: Writer,
    usage: UsageSum,
    *,
    interval: int,
    with_logprobs: bool,
    new_parser: Callable[[], ReplyParser] | None = None,
) -> AsyncGenerator[bytes]:
    """Events of a stream: a choice's first piece at once, then one every `interval` tokens.

    The events of a choice end with its finish reason; usage and the end are the caller's.
    new_parser: makes what takes the parts of a choice's text apart, where it has any.
    """
    unsent: dict[int, Answer] = {}
    parsers: dict[int, ReplyParser] = {}
    async with aclosing(chunks):
        async for index, chunk in chunks:
            answer = unsent.get(index)
            if answer is None:
                answer = unsent[index] = Answer()
            answer.text += chunk.text
            answer.n_tokens += len(chunk.token_ids) or 1  # some engines tell no ids
            if with_logprobs:
                answer.logprobs += chunk.logprobs
            reason = chunk.finish_reason
            if reason is None and (
                not answer.text or (answer.has_begun and answer.n_tokens < interval)
            ):
                continue
            event = b"" if answer.has_begun else writer.start(index)
            logprobs = answer.logprobs if with_logprobs else None
            parser = None
            if new_parser is not None:
                parser = parsers.get(index) or parsers.setdefault(index, new_parser())
                parts = parser.feed(answer.text, is_last=reason is not None)
                event += _part_events(writer, index, parts, logprobs)
            elif answer.text or answer.logprobs:
                event += writer.piece(index, answer.text, logprobs)
            if reason is not None:
                event += writer.finish(index, public_reason(reason, parser), chunk.stop)
                if chunk.usage is not None:
                    usage.add(index, chunk.usage)
            answer.text, answer.n_tokens, answer.has_begun = "", 0, True
            if with_logprobs:
                answer.logprobs = []
            if event:
                yield event


def _part_events(
    writer: Writer, index: int, parts: Sequence[Part], logprobs: Sequence[TokenLogprob] | None
) -> bytes:
    """The events of some parts; the first carries the log-probabilities of all tokens."""
    if not parts:
        return writer.piece(index, "", logprobs) if logprobs else b""
    event = writer.part(index, parts[0], logprobs)
    return event + b"".join(writer.part(index, part) for part in parts[1:])


async def only_echo(
    chunks: AsyncGenerator[tuple[int, Chunk]],
) -> AsyncGenerator[tuple[int, Chunk]]:
    """`chunks` as if nothing had been generated: the prompts, and the ends."""
    seen: set[int] = set()
    async with aclosing(chunks):
        async for index, chunk in chunks:
            if chunk.finish_reason is not None:
                usage = chunk.usage and replace(chunk.usage, completion_tokens=0)
                yield index, Chunk(index=chunk.index, finish_reason="length", usage=usage)
            elif index not in seen and not chunk.token_ids:
                yield index, chunk
            seen.add(index)
