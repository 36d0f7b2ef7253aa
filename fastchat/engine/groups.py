"""The fallback engine: requests in groups that start together, over the model's own cache.

For models whose cache cannot be addressed by position (ALiBi, state-space and linear-attention
layers), which the slot engine's self-check turns away. A group is prefilled at once and then
decoded step by step until its last answer has ended; who comes meanwhile waits for the next
group. Rows that end leave the cache at the next step, so nobody pays for them.

A state must not see padding, so stateful models get groups of prompts of equal length. The
others are padded on the left where a check at start finds that this changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastchat.engine.answer import Answer
from fastchat.engine.base import (
    Chunk,
    Embeddings,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerationRequest,
)
from fastchat.engine.grammar import Grammars, can_constrain
from fastchat.engine.row_forward import RowCache, RowForward
from fastchat.engine.sampling import RawLogprob, Sampler, raw_logprobs
from fastchat.engine.thread import ChunkStream, ModelThread, model_error
from fastchat.engine.validate import Checked, checked, prompt_ids
from fastchat.errors import ModelError, UnavailableError, UsageError
from fastchat.message import ChatOptions, Message

if TYPE_CHECKING:
    from torch import Tensor

    from fastchat.engine.choose import EngineSettings
    from fastchat.engine.scoring import Scores
    from fastchat.model.load import LoadedModel

logger = logging.getLogger(__name__)

INLINE_CHARS = 20_000
"""Longer prompts are tokenized outside the event loop."""

BUDGET = 32768
"""Tokens that the rows of a group may hold together, unless the settings say otherwise."""


class GroupEngine:
    """An Engine whose requests are answered in groups."""

    def __init__(self, loaded: LoadedModel, settings: EngineSettings, *, path: str) -> None:
        """
        Args:
            loaded: the model with all that belongs to it.
            settings: how requests share it.
            path: what the model is called by its operator.
        """
        self._loaded = loaded
        self._budget = settings.max_cached_tokens or max(BUDGET, loaded.context_len)
        self._max_rows = settings.max_running
        self._forward = RowForward(loaded)
        self._sampler = Sampler(loaded.vocab_size, loaded.device)
        self._grammars = Grammars(loaded)
        abilities = {"generate", "embed", "logprobs", "logit_bias", "seed"}
        abilities |= {"grammar"} if can_constrain(loaded) else set()
        self.info = EngineInfo(
            model_path=path,
            family=loaded.family.name,
            context_length=min(loaded.context_len, self._budget),
            vocab_size=loaded.vocab_size,
            dtype=str(loaded.dtype).removeprefix("torch."),
            device=str(loaded.device),
            scheduler="groups",
            template=loaded.template_name,
            max_running=settings.max_running,
            tool_format=loaded.prompting.tools,
            reasoning=loaded.prompting.reasoning,
            special_ids=loaded.prompting.special_ids,
            template_variables=loaded.prompting.variables,
            abilities=frozenset(
                abilities
                if loaded.can_generate
                else {"embed", "score"}
                if loaded.can_score
                else {"embed"}
            ),
        )
        self._thread: ModelThread | None = None
        self._is_stopping = False
        self._n_open = 0
        """Iterators of `generate` that have not ended; of the event loop."""
        self._waiting: deque[_Row] = deque()
        self._group: _Group | None = None
        self._stats = EngineStats(cache_budget=self._budget)
        self._n_steps = self._n_prompt = self._n_generated = 0

    async def start(self, thread: ModelThread | None = None) -> None:
        """Begins to take requests; in a thread of its own unless one is given.

        Raises UsageError when the model keeps its state in a way that cannot be shared.
        """
        if self._thread is not None:
            return
        self._thread = thread or ModelThread()
        self._is_stopping = False
        if self._loaded.can_generate:
            await self._thread.run(self._forward.prepare)
        await self._thread.run(self._thread.set_step, self._step)

    async def stop(self, drain_s: float = 5.0) -> None:
        self._is_stopping = True
        thread, loop = self._thread, asyncio.get_running_loop()
        if thread is None:
            return
        deadline = loop.time() + drain_s
        while self._n_open and loop.time() < deadline:
            await asyncio.sleep(0.01)
        await thread.run(self._end_all)
        await thread.run(thread.set_step, None)
        self._thread = None
        await thread.close()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        ready = await self._checked(request)
        thread = self._running_thread()
        stream = ChunkStream()
        rows = [
            _Row(Answer(request, ready, self._loaded, index=i), stream) for i in range(request.n)
        ]
        n_open = request.n
        self._n_open += 1
        try:
            thread.post(lambda: self._begin(rows))
            while n_open:
                chunk = await stream.next()
                n_open -= chunk.finish_reason is not None
                yield chunk
        finally:
            self._n_open -= 1
            if n_open:
                thread.post(lambda: self._end(rows, "abort"))

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> Embeddings:
        from fastchat.engine.embedding import embed_texts

        return await self._running_thread().run(embed_texts, self._loaded, texts)

    async def score(self, pairs: Sequence[tuple[str, str]]) -> Scores:
        """How well the second text of each pair fits the first, by a cross-encoder."""
        from fastchat.engine.scoring import score_pairs

        return await self._running_thread().run(score_pairs, self._loaded, pairs)

    def render(self, messages: Sequence[Message], options: ChatOptions = ChatOptions()) -> str:
        return self._loaded.render(messages, options)

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self._loaded.encode(text, add_special_tokens)

    def detokenize(self, ids: Sequence[int]) -> str:
        for i in ids:
            if not 0 <= i < self.info.vocab_size:
                raise UsageError(f"token id {i} is not in this model's vocabulary")
        return self._loaded.tokenizer.decode(list(ids), skip_special_tokens=True)

    def stats(self) -> EngineStats:
        return self._stats

    def _running_thread(self) -> ModelThread:
        if self._thread is None or self._is_stopping:
            raise UnavailableError("this model is being stopped; try another or try again later")
        return self._thread

    async def _checked(self, request: GenerationRequest) -> Checked:
        """The prompt as ids, everything about the request being in range."""

        def check() -> Checked:
            return self._fitted(request, prompt_ids(request, self._loaded))

        size = len(request.prompt or ()) + sum(len(m.text) for m in request.messages or ())
        ready = check() if size < INLINE_CHARS else await asyncio.to_thread(check)
        return await self._grammars.joined(request, ready)

    def _fitted(self, request: GenerationRequest, ids: Sequence[int]) -> Checked:
        """The prompt and budget of a request; raises what `validate.checked` raises."""
        bos = self._loaded.tokenizer.bos_token_id
        return checked(request, self.info, ids, bos_token_id=bos)

    # From here on everything runs in the model's thread.

    def _begin(self, rows: list[_Row]) -> None:
        self._n_prompt += len(rows[0].answer.prompt_ids)
        for row in rows:
            request = row.answer.request
            self._sampler.add(
                row,
                request.sampling,
                prompt_ids=row.answer.prompt_ids,
                stream=row.answer.index,
                logprobs=request.logprobs,
                constraint=row.answer.constraint,
            )
        self._waiting.extend(rows)
        self._count()

    def _step(self) -> bool:
        """Starts a group or advances the one there is; False when there is nothing to do."""
        out: list[tuple[ChunkStream, Chunk]] = []
        if self._group is None and not self._waiting:
            return False
        try:
            if self._group is None:
                self._group = self._next_group()
                logits = self._prefill(self._group, out)
            else:
                logits = self._decode(self._group)
            self._n_steps += 1
            if logits is not None:
                self._use(self._group.rows, logits, out)
        except Exception as error:
            self._fail(error, out)
        if self._group is not None and not any(row.is_live for row in self._group.rows):
            self._group = None
        self._count()
        ChunkStream.deliver(out)
        return True

    def _next_group(self) -> _Group:
        """Takes the oldest waiting row, and those after it that can go with it."""
        rows: list[_Row] = []
        longest = most = 0
        for row in list(self._waiting):
            n = len(row.answer.prompt_ids)
            fits_length = not rows or n == longest or self._forward.can_pad
            length = max(longest, n)
            tokens = max(most, row.answer.max_tokens)
            fits = not rows or (len(rows) + 1) * (length + tokens) <= self._budget
            if fits_length and fits and len(rows) < self._max_rows:
                rows.append(row)
                longest, most = length, tokens
                self._waiting.remove(row)
        return _Group(rows=rows)

    def _prefill(self, group: _Group, out: list[tuple[ChunkStream, Chunk]]) -> Tensor:
        """Computes the prompts, each once, and gives the logits (R, V) after them."""
        first_of: dict[int, int] = {}
        """Place of each different request among the prompts."""
        prompts: list[tuple[int, ...]] = []
        places: list[int] = []
        for row in group.rows:
            key = id(row.answer.request)
            if key not in first_of:
                first_of[key] = len(prompts)
                prompts.append(row.answer.prompt_ids)
            places.append(first_of[key])
        asking = [row for row in group.rows if row.wants_prompt_logprobs]
        logits = self._forward.prefill(group.cache, prompts, wants_all=bool(asking))
        for row, place in zip(group.rows, places, strict=True):
            if not row.answer.request.echo:
                continue
            logprobs = None
            if row.wants_prompt_logprobs:
                logprobs = _prompt_logprobs(row.answer, logits[place])
            out.append((row.stream, row.answer.prompt_chunk(logprobs)))
        if places != list(range(len(prompts))):
            self._forward.select(group.cache, places)
        return logits[:, -1][places]

    def _decode(self, group: _Group) -> Tensor | None:
        """Advances the rows that have not ended; their logits (R, V)."""
        live = [i for i, row in enumerate(group.rows) if row.is_live]
        if not live:
            return None
        if len(live) < len(group.rows):
            self._forward.select(group.cache, live)
            group.rows = [group.rows[i] for i in live]
        return self._forward.decode(group.cache, [row.answer.token_ids[-1] for row in group.rows])

    def _use(self, rows: list[_Row], logits: Tensor, out: list[tuple[ChunkStream, Chunk]]) -> None:
        """Draws the next token of every row, and passes on what it says."""
        for row in rows:
            if row.answer.max_tokens == 0:
                self._finish(row, "length", out)
        wanting = [i for i, row in enumerate(rows) if row.is_live]
        if not wanting:
            return
        drawn = self._sampler.sample(
            logits if len(wanting) == len(rows) else logits[wanting], [rows[i] for i in wanting]
        )
        self._n_generated += len(wanting)
        for i, place in enumerate(wanting):
            row = rows[place]
            if i in drawn.failed:
                error = ModelError("the model gave no usable probabilities for the next token")
                self._finish(row, "error", out, error=error)
                continue
            reason = row.answer.accept(
                drawn.token_ids[i], drawn.logprobs[i], is_complete=i in drawn.complete
            )
            if reason is not None:
                self._finish(row, reason, out)
            elif row.answer.text:
                out.append((row.stream, row.answer.take_chunk()))

    def _fail(self, error: Exception, out: list[tuple[ChunkStream, Chunk]]) -> None:
        """Ends the rows that a failed step was for; those that wait go on."""
        rows = [row for row in self._group.rows if row.is_live] if self._group else []
        logger.error("a step failed, and %d answers with it", len(rows), exc_info=error)
        for row in rows:
            self._finish(row, "error", out, error=model_error(error))
        self._group = None

    def _finish(
        self,
        row: _Row,
        reason: FinishReason,
        out: list[tuple[ChunkStream, Chunk]],
        *,
        error: Exception | None = None,
    ) -> None:
        """Ends one answer with its last chunk."""
        row.is_live = False
        self._sampler.remove(row)
        out.append((row.stream, row.answer.last_chunk(reason, error=error)))

    def _end(self, rows: Sequence[_Row], reason: FinishReason) -> None:
        """Ends what is left of some rows; their places are free at the next step."""
        out: list[tuple[ChunkStream, Chunk]] = []
        for row in rows:
            if row.is_live:
                self._finish(row, reason, out)
        self._waiting = deque(row for row in self._waiting if row.is_live)
        self._count()
        ChunkStream.deliver(out)

    def _end_all(self) -> None:
        running = self._group.rows if self._group else []
        self._end([*running, *self._waiting], "abort")
        self._group = None
        self._count()

    def _count(self) -> None:
        rows = self._group.rows if self._group else []
        self._stats = EngineStats(
            running=sum(row.is_live for row in rows),
            waiting=len(self._waiting),
            cached_tokens=len(rows) * (self._group.cache.length if self._group else 0),
            cache_budget=self._budget,
            prompt_tokens_total=self._n_prompt,
            generated_tokens_total=self._n_generated,
            steps_total=self._n_steps,
        )


class _Row:
    """An answer on its way to its reader."""

    __slots__ = ("answer", "is_live", "stream")

    def __init__(self, answer: Answer, stream: ChunkStream) -> None:
        self.answer = answer
        self.stream = stream
        self.is_live = True

    @property
    def wants_prompt_logprobs(self) -> bool:
        return self.answer.request.echo and self.answer.request.logprobs is not None


@dataclass(slots=True)
class _Group:
    """Rows that are computed together, and their cache; in the same order."""

    rows: list[_Row]
    cache: RowCache = field(default_factory=RowCache)


def _prompt_logprobs(answer: Answer, logits: Tensor) -> list[RawLogprob]:
    """Those of the prompt's tokens from the second on; logits: (padded length, V)."""
    ids = answer.prompt_ids
    if len(ids) < 2:
        return []
    rows = logits[len(logits) - len(ids) : -1]
    return raw_logprobs(rows, ids[1:], top=answer.request.logprobs or 0)
