"""The default engine: continuous batching over a transformers model.

Each step of the model's thread advances every running sequence at once (`scheduler.py` says
which, `packed.py` computes them), draws a token for each (`sampling.py`), and hands all new
text over together. A request waits for nobody else's end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fastchat.engine.base import (
    Chunk,
    Embeddings,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerationRequest,
)
from fastchat.engine.grammar import Grammars, can_constrain
from fastchat.engine.live import Choice, Live, choice_of, segment_of
from fastchat.engine.loaded_adapters import Computer, LoadedAdapters
from fastchat.engine.packed import PackedModel
from fastchat.engine.sampling import Sampler
from fastchat.engine.scheduler import Scheduler, Work
from fastchat.engine.thread import ChunkStream, ModelThread, model_error
from fastchat.engine.validate import Checked, checked, prompt_ids
from fastchat.engine.vision import PicturePrompt, SeenPrompt, VisionTower, read_prompt
from fastchat.errors import ModelError, UnavailableError, UsageError
from fastchat.message import ChatOptions, Message

if TYPE_CHECKING:
    from torch import Tensor

    from fastchat.engine.choose import EngineSettings
    from fastchat.model.load import LoadedModel

logger = logging.getLogger(__name__)

INLINE_CHARS = 20_000
"""Longer prompts are tokenized outside the event loop (a core does about 2 million a second)."""


READING_AT_ONCE = 2
"""Requests whose pictures are decoded at a time: one may take 120 MB."""

ABILITIES = frozenset({"generate", "embed", "logprobs", "logit_bias", "seed", "adapters"})


class SlotEngine:
    """An Engine whose requests share every step of the model."""

    def __init__(
        self, loaded: LoadedModel, packed: PackedModel, settings: EngineSettings, *, path: str
    ) -> None:
        """
        Args:
            loaded: the model with all that belongs to it.
            packed: the same model, computing over its cache.
            settings: how requests share it.
            path: what the model is called by its operator.
        """
        self._loaded = loaded
        self._packed = packed
        self._scheduler = Scheduler(
            packed.cache,
            max_running=settings.max_running,
            max_step_tokens=settings.max_step_tokens,
        )
        self._sampler = Sampler(loaded.vocab_size, loaded.device)
        self._grammars = Grammars(loaded)
        self.info = EngineInfo(
            model_path=path,
            family=loaded.family.name,
            context_length=min(loaded.context_len, packed.cache.budget),
            vocab_size=loaded.vocab_size,
            dtype=str(loaded.dtype).removeprefix("torch."),
            device=str(loaded.device),
            scheduler="slots",
            template=loaded.template_name,
            max_running=settings.max_running,
            tool_format=loaded.prompting.tools,
            reasoning=loaded.prompting.reasoning,
            special_ids=loaded.prompting.special_ids,
            template_variables=loaded.prompting.variables,
            abilities=ABILITIES
            | ({"vision"} if packed.has_vision else set())
            | ({"grammar"} if can_constrain(loaded) else set()),
        )
        self._thread: ModelThread | None = None
        self._is_stopping = False
        self._n_open = 0
        """Iterators of `generate` that have not ended; of the event loop."""
        self._live: dict[Live, None] = {}
        """Requests that have not ended; of the model's thread."""
        self._tower = None
        if packed.has_vision and loaded.processor is not None:
            sees_whole = loaded.processor.is_seen_whole
            self._tower = VisionTower(loaded.model, sees_whole=sees_whole)
        self._reading = asyncio.Semaphore(READING_AT_ONCE)
        self._adapters = LoadedAdapters(packed, loaded.model, settings, path=path)
        self._stats = EngineStats(cache_budget=packed.cache.budget)
        self._n_steps = self._n_prompt = self._n_generated = 0

    async def start(self, thread: ModelThread | None = None) -> None:
        """Begins to take requests; in a thread of its own unless one is given."""
        if self._thread is not None:
            return
        self._thread = thread or ModelThread()
        self._is_stopping = False
        await self._thread.run(self._thread.set_step, self._step)

    async def stop(self, drain_s: float = 5.0) -> None:
        self._is_stopping = True
        thread, loop = self._thread, asyncio.get_running_loop()
        if thread is None:
            return
        deadline = loop.time() + drain_s
        while self._n_open and loop.time() < deadline:
            await asyncio.sleep(0.01)
        await thread.run(self._end_all, "abort", None)
        await thread.run(thread.set_step, None)
        await thread.run(self._packed.close)
        self._thread = None
        await thread.close()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        pictured = await self._pictured(request)
        ready = await self._checked(request, pictured)
        seen = None if pictured is None else await self._see(pictured)
        if self._thread is None or self._is_stopping:
            raise UnavailableError("this model is being stopped; try another or try again later")
        live = Live(
            request,
            ready,
            self._loaded,
            ChunkStream(),
            computer=self._adapters.get(request.adapter),
            seen=seen,
        )
        thread, n_open = self._thread, request.n
        self._n_open += 1
        try:
            thread.post(lambda: self._begin(live))
            while n_open:
                chunk = await live.stream.next()
                n_open -= chunk.finish_reason is not None
                yield chunk
        finally:
            self._n_open -= 1
            if n_open:
                thread.post(lambda: self._end(live, "abort"))

    async def embed(
        self, texts: Sequence[str | Sequence[int]], *, adapter: str | None = None
    ) -> Embeddings:
        from fastchat.engine.embedding import embed_texts

        chosen = self._adapters.get(adapter)

        def compute() -> Embeddings:
            with self._packed.plain_attention(), self._packed.whole_passes_by(chosen.place):
                return embed_texts(self._loaded, texts)

        if self._thread is None or self._is_stopping:
            raise UnavailableError("this model is being stopped; try another or try again later")
        return await self._thread.run(compute)

    async def load_adapter(self, name: str, path: str) -> None:
        """Makes an adapter ready under a name.

        Raises:
            UsageError: it is none that can be served over this model.
            DataError: its files are damaged.
            UnavailableError: it has to be downloaded, and cannot be; or the engine stops.
        """
        if self._thread is None or self._is_stopping:
            raise UnavailableError("this model is being stopped; try another or try again later")
        await self._adapters.load(name, path, self._thread)

    def unload_adapter(self, name: str) -> None:
        """Refuses new requests for an adapter, and forgets it when the last has ended."""
        if self._thread is None or self._is_stopping:
            raise UnavailableError("this model is being stopped; try another or try again later")
        self._adapters.unload(name, self._thread, in_use=self._computers)

    def render(self, messages: Sequence[Message], options: ChatOptions = ChatOptions()) -> str:
        return self._loaded.render(messages, options)

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self._loaded.encode(text, add_special_tokens)

    def detokenize(self, ids: Sequence[int]) -> str:
        for i in ids:
            if not 0 <= i < self.info.vocab_size:
                raise UsageError(f"Token id {i} is not in this model's vocabulary.")
        return self._loaded.tokenizer.decode(list(ids), skip_special_tokens=True)

    def stats(self) -> EngineStats:
        return self._stats

    async def _pictured(self, request: GenerationRequest) -> PicturePrompt | None:
        """The prompt of a conversation with pictures, where this model sees them."""
        messages = request.messages or ()
        if self._tower is None or not any(message.images for message in messages):
            return None
        async with self._reading:
            return await asyncio.to_thread(read_prompt, self._loaded, messages, request.options)

    async def _see(self, pictured: PicturePrompt) -> SeenPrompt:
        """The pictures' embeddings; a failure is this request's alone."""
        if self._thread is None or self._tower is None:
            raise UnavailableError("this model is being stopped; try another or try again later")
        try:
            return await self._thread.run(self._tower.see, pictured)
        except Exception as error:
            logger.error("the vision tower failed", exc_info=error)
            raise model_error(error) from error

    async def _checked(
        self, request: GenerationRequest, pictured: PicturePrompt | None = None
    ) -> Checked:
        """The prompt as ids, everything about the request being in range."""
        if pictured is not None:  # which cannot be shortened
            request = replace(request, truncate_prompt=False)

        def check() -> Checked:
            ids = prompt_ids(request, self._loaded) if pictured is None else pictured.ids
            bos = self._loaded.tokenizer.bos_token_id
            return checked(request, self.info, ids, bos_token_id=bos)

        size = len(request.prompt or ()) + sum(len(m.text) for m in request.messages or ())
        ready = check() if size < INLINE_CHARS else await asyncio.to_thread(check)
        return await self._grammars.joined(request, ready)

    # From here on everything runs in the model's thread.

    def _computers(self) -> set[Computer]:
        return {live.computer for live in self._live}

    def _begin(self, live: Live) -> None:
        """Takes a request in; its reader is owed an end, whatever happens."""
        self._live[live] = None
        try:
            self._enter(live)
        except Exception as error:
            logger.error("a request could not begin", exc_info=error)
            self._end(live, "error", model_error(error))

    def _enter(self, live: Live) -> None:
        self._n_prompt += len(live.prompt_ids)
        for choice in live.choices:
            self._sampler.add(
                choice,
                live.request.sampling,
                prompt_ids=live.prompt_ids,
                stream=choice.answer.index,
                logprobs=live.request.logprobs,
                constraint=choice.answer.constraint,
            )
            self._scheduler.add(choice.scheduled)
        if live.request.echo and not live.wants_prompt_logprobs:
            ChunkStream.deliver(live.prompt_chunks())
        self._count()

    def _step(self) -> bool:
        """Advances every running sequence; False when there is nothing to do."""
        if not self._scheduler.has_work:
            return False
        out: list[tuple[ChunkStream, Chunk]] = []
        work: list[Work] = []
        try:
            work = self._scheduler.plan()
            logits = self._packed.forward([segment_of(item) for item in work])
            self._scheduler.advance(work)
            self._n_steps += 1
            self._use(work, logits, out)
        except Exception as error:
            self._fail(error, out)
        self._count()
        ChunkStream.deliver(out)
        return True

    def _fail(self, error: Exception, out: list[tuple[ChunkStream, Chunk]]) -> None:
        """Ends the requests that a failed step was for; those that wait go on."""
        waiting = {choice_of(s) for s in self._scheduler.waiting}
        hit = [live for live in self._live if any(c not in waiting for c in live.choices)]
        logger.error("a step failed, and %d requests with it", len(hit), exc_info=error)
        shown = model_error(error)
        for live in hit:
            for choice in list(live.choices):
                self._finish_anyway(choice, "error", out, error=shown)
        try:
            self._packed.cache.clear()
        except Exception as again:
            logger.error("the cache cannot be cleared after it", exc_info=again)

    def _use(self, work: list[Work], logits: Tensor, out: list[tuple[ChunkStream, Chunk]]) -> None:
        """Draws the next tokens from a step's logits, and passes on what they say."""
        rows: list[int] = []
        choices: list[Choice] = []
        place = 0
        for item in work:
            choice = choice_of(item.sequence)
            if item.sequence.wants_prompt_logits:
                choice.live.note_prompt_logits(item, logits[place : place + item.n_tokens])
                place += item.n_tokens - 1
                if item.is_last:
                    item.sequence.wants_prompt_logits = False
                    out += choice.live.prompt_chunks()
            elif not item.is_last:
                continue
            if item.is_last:
                rows.append(place)
                choices.append(choice)
            place += 1
        for choice in [c for c in choices if c.live.max_tokens == 0]:
            i = choices.index(choice)
            del choices[i], rows[i]
            self._finish(choice, "length", out)
        if not choices:
            return
        if len(rows) != len(logits):
            logits = logits[rows]
        drawn = self._sampler.sample(logits, choices)
        failed = set(drawn.failed)
        self._n_generated += len(choices)
        for i, choice in enumerate(choices):
            if i in failed:
                error = ModelError("the model gave no usable probabilities for the next token")
                self._finish(choice, "error", out, error=error)
                continue
            choice.scheduled.tokens.append(drawn.token_ids[i])
            reason = choice.answer.accept(
                drawn.token_ids[i], drawn.logprobs[i], is_complete=i in drawn.complete
            )
            if reason is not None:
                self._finish(choice, reason, out)
            elif choice.answer.text:
                out.append((choice.live.stream, choice.answer.take_chunk()))

    def _finish(
        self,
        choice: Choice,
        reason: FinishReason,
        out: list[tuple[ChunkStream, Chunk]],
        *,
        error: Exception | None = None,
    ) -> None:
        """Ends one choice with its last chunk, and frees what it held."""
        self._scheduler.remove(choice.scheduled, keep=reason != "error")
        self._sampler.remove(choice)
        live, n_reused = choice.live, choice.scheduled.n_reused
        last = choice.answer.last_chunk(reason, error=error, cached_tokens=n_reused)
        out.append((live.stream, last))
        live.choices.remove(choice)
        if not live.choices:
            self._live.pop(live, None)
            if self._adapters.is_retiring:
                self._adapters.forget_retired(self._computers())

    def _finish_anyway(
        self,
        choice: Choice,
        reason: FinishReason,
        out: list[tuple[ChunkStream, Chunk]],
        *,
        error: Exception | None,
    ) -> None:
        """Ends one choice even where that fails, as it does on a device that has stopped working.

        Its reader is owed a last chunk whatever happens.
        """
        try:
            self._finish(choice, reason, out, error=error)
        except Exception as again:
            logger.error("a request could not be ended properly", exc_info=again)
            self._scheduler.drop(choice.scheduled)
            self._sampler.remove(choice)
            live, answer = choice.live, choice.answer
            if choice in live.choices:  # or its last chunk is on its way
                live.choices.remove(choice)
                out.append((live.stream, answer.error_chunk(error or model_error(again))))
            if not live.choices:
                self._live.pop(live, None)

    def _end(self, live: Live, reason: FinishReason, error: Exception | None = None) -> None:
        """Ends what is left of a request."""
        out: list[tuple[ChunkStream, Chunk]] = []
        for choice in list(live.choices):
            self._finish_anyway(choice, reason, out, error=error)
        self._count()
        ChunkStream.deliver(out)

    def _end_all(self, reason: FinishReason, error: Exception | None) -> None:
        for live in list(self._live):
            self._end(live, reason, error)

    def _count(self) -> None:
        self._stats = EngineStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            cached_tokens=self._packed.cache.used,
            cache_budget=self._packed.cache.budget,
            prompt_tokens_total=self._n_prompt,
            generated_tokens_total=self._n_generated,
            prefix_hit_tokens_total=self._scheduler.prefix_hit_tokens,
            steps_total=self._n_steps,
        )
