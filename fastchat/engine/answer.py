"""One answer in the making: ids in, chunks out. What every engine over a tokenizer shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastchat.engine.base import Chunk, FinishReason, GenerationRequest, TokenLogprob, Usage
from fastchat.engine.detokenize import Detokenizer, token_text
from fastchat.engine.grammar import opens_at_end
from fastchat.engine.sampling import RawLogprob
from fastchat.engine.stopping import Stopping
from fastchat.engine.validate import Checked
from fastchat.families.formats import ReasoningFormat

if TYPE_CHECKING:
    from fastchat.model.load import LoadedModel


class Answer:
    """One of a request's choices: its text, where it stops, and what has been sent of it."""

    def __init__(
        self, request: GenerationRequest, ready: Checked, loaded: LoadedModel, *, index: int
    ) -> None:
        self.request = request
        self.prompt_ids = ready.prompt_ids
        self.max_tokens = ready.max_tokens
        self.index = index
        self.token_ids: list[int] = []
        """All that was generated, an end token included."""
        self.text = ""
        """New text that no chunk has carried."""
        self._loaded = loaded
        self._n_sent = 0
        self._logprobs: list[TokenLogprob] = []
        is_chat = request.messages is not None
        # The blank between the slot and an answer belongs to the prompt format, not to the answer.
        has_lead = is_chat and request.options.slot == "open"
        self._lead = loaded.prompting.lead if has_lead else ""
        # A decoder beside an encoder begins a text of its own.
        before = () if loaded.is_encoder_decoder else ready.prompt_ids
        special = loaded.prompting.special_ids
        kept = {special[mark]: mark for mark in request.marks if mark in special}
        self._detokenizer = Detokenizer(loaded.tokenizer, before, kept)
        # A reasoning that the prompt has opened is the answer's, and begins where others begin it.
        reasoning = loaded.prompting.reasoning
        is_inside = (
            is_chat
            and reasoning is not None
            and (
                opens_at_end(loaded.tokenizer, ready.prompt_ids, reasoning.open)
                or _goes_on_thinking(request, reasoning)
            )
        )
        if reasoning is not None and is_inside:
            self.text = reasoning.open
        self.constraint = ready.compiled and ready.compiled.begin(is_inside=is_inside)
        """Its way through the request's grammar."""
        stop, stop_ids = request.stop, set(request.stop_token_ids)
        if not request.ignore_eos:
            stop_ids |= loaded.eos_token_ids
            # A grammar tells the end itself, and a text it allows may hold any stop string.
            grammar = request.grammar
            is_held = grammar is not None and not (grammar.after or grammar.opens)
            stop = (*stop, *loaded.stop) if is_chat and not is_held else stop
        self._stopping = Stopping(stop, stop_ids)

    def accept(
        self, token_id: int, logprob: RawLogprob | None = None, *, is_complete: bool = False
    ) -> FinishReason | None:
        """Takes the next token; gives the reason if the answer ends with it.

        is_complete: the grammar lets nothing follow it.
        """
        self.token_ids.append(token_id)
        if self._stopping.ends_at(token_id):
            return "stop"
        if logprob is not None:
            self._logprobs.append(named(logprob, self._loaded))
        if text := self._detokenizer.push((token_id,)):
            self.text += self._stopping.feed(self._without_lead(text))
        if self._stopping.ended or is_complete:
            return "stop"
        return "length" if len(self.token_ids) >= self.max_tokens else None

    def take_chunk(self) -> Chunk:
        """All that no chunk has carried yet."""
        chunk = Chunk(
            index=self.index,
            text=self.text,
            token_ids=tuple(self.token_ids[self._n_sent :]),
            logprobs=tuple(self._logprobs),
        )
        self.text = ""
        self._n_sent = len(self.token_ids)
        self._logprobs.clear()
        return chunk

    def last_chunk(
        self,
        reason: FinishReason,
        *,
        error: Exception | None = None,
        cached_tokens: int = 0,
    ) -> Chunk:
        """The rest, with the count of tokens."""
        self.text += self._stopping.feed(self._without_lead(self._detokenizer.flush()))
        self.text += self._stopping.flush()
        rest = self.take_chunk()
        matched = self._stopping.matched if reason == "stop" else None
        return Chunk(
            index=rest.index,
            text=rest.text,
            token_ids=rest.token_ids,
            logprobs=rest.logprobs,
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=len(self.prompt_ids),
                completion_tokens=len(self.token_ids),
                cached_tokens=cached_tokens,
            ),
            error=error,
            stop=matched if matched in self.request.stop else None,
        )

    def error_chunk(self, error: Exception) -> Chunk:
        """The last chunk of an answer whose rest cannot even be told."""
        n_prompt, n_answer = len(self.prompt_ids), len(self.token_ids)
        return Chunk(
            index=self.index,
            finish_reason="error",
            usage=Usage(prompt_tokens=n_prompt, completion_tokens=n_answer),
            error=error,
        )

    def prompt_chunk(self, logprobs: list[RawLogprob] | None = None) -> Chunk:
        """The echoed prompt; `logprobs` are those of its tokens from the second on."""
        text = self._loaded.tokenizer.decode(list(self.prompt_ids), skip_special_tokens=True)
        tokens: tuple[TokenLogprob, ...] = ()
        if logprobs is not None:
            first = self.prompt_ids[0]
            start = TokenLogprob(token_text(self._loaded.tokenizer, first), first, None)
            tokens = (start, *(named(raw, self._loaded) for raw in logprobs))
        return Chunk(index=self.index, text=text, logprobs=tokens)

    def _without_lead(self, text: str) -> str:
        """The text without what stands between the slot and an answer, at the very start."""
        if not self._lead or not text:
            return text
        lead, self._lead = self._lead, ""
        return text.removeprefix(lead)


def _goes_on_thinking(request: GenerationRequest, reasoning: ReasoningFormat) -> bool:
    """Whether the message that an answer goes on with has opened its reasoning and not ended it."""
    if request.options.slot != "continued" or not request.messages:
        return False
    before, mark, rest = request.messages[-1].text.partition(reasoning.open)
    return bool(mark) and not before.strip() and reasoning.close not in rest


def named(raw: RawLogprob, loaded: LoadedModel) -> TokenLogprob:
    """The log-probabilities of a token with the texts of this model's vocabulary."""
    return raw.named(lambda token_id: token_text(loaded.tokenizer, token_id))
