"""What the slot engine knows of a request that has not ended: its answers and their places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastchat.engine.answer import Answer
from fastchat.engine.base import Chunk, GenerationRequest
from fastchat.engine.loaded_adapters import Computer
from fastchat.engine.plan import Segment
from fastchat.engine.sampling import RawLogprob, raw_logprobs
from fastchat.engine.scheduler import Sequence as Scheduled
from fastchat.engine.scheduler import Work
from fastchat.engine.thread import ChunkStream
from fastchat.engine.validate import Checked
from fastchat.engine.vision import SeenPrompt

if TYPE_CHECKING:
    from torch import Tensor

    from fastchat.model.load import LoadedModel


class Live:
    """A request that has not ended."""

    __slots__ = (
        "_prompt_logprobs",
        "choices",
        "computer",
        "max_tokens",
        "prompt_ids",
        "request",
        "seen",
        "stream",
        "wants_prompt_logprobs",
    )

    def __init__(
        self,
        request: GenerationRequest,
        ready: Checked,
        loaded: LoadedModel,
        stream: ChunkStream,
        *,
        computer: Computer,
        seen: SeenPrompt | None = None,
    ) -> None:
        self.request = request
        self.computer = computer
        self.seen = seen
        """The pictures of the prompt."""
        self.prompt_ids = list(ready.prompt_ids)
        self.max_tokens = ready.max_tokens
        self.stream = stream
        self.wants_prompt_logprobs = request.echo and request.logprobs is not None
        self._prompt_logprobs: dict[int, RawLogprob] = {}
        """By the position of the token."""
        answers = [Answer(request, ready, loaded, index=i) for i in range(request.n)]
        self.choices = [Choice(self, answer) for answer in answers]
        if self.wants_prompt_logprobs:
            # The first choice computes them; the others wait, and start from its prompt.
            self.choices[0].scheduled.wants_prompt_logits = True
            for choice in self.choices[1:]:
                choice.scheduled.is_held = True

    def note_prompt_logits(self, work: Work, logits: Tensor) -> None:
        """Keeps the log-probabilities of the tokens that follow those of `work`."""
        followers = self.prompt_ids[work.start + 1 : work.start + work.n_tokens + 1]
        if followers:
            top = self.request.logprobs or 0
            found = raw_logprobs(logits[: len(followers)], followers, top=top)
            self._prompt_logprobs.update(enumerate(found, work.start + 1))

    def prompt_chunks(self) -> list[tuple[ChunkStream, Chunk]]:
        """The echoed prompt for every choice, once all that it shows is there."""
        logprobs = None
        if self.wants_prompt_logprobs:
            logprobs = [self._prompt_logprobs[i] for i in range(1, len(self.prompt_ids))]
        for choice in self.choices:
            choice.scheduled.is_held = False
        return [(self.stream, c.answer.prompt_chunk(logprobs)) for c in self.choices]


class Choice:
    """One answer with its place in the schedule."""

    __slots__ = ("answer", "live", "scheduled")

    def __init__(self, live: Live, answer: Answer) -> None:
        self.live = live
        self.answer = answer
        self.scheduled = Scheduled(
            self,
            live.prompt_ids if live.seen is None else live.seen.prompt.text_keys,
            answers_at_most=live.max_tokens,
            text_key=live.computer.key,
            blocks=() if live.seen is None else live.seen.blocks,
        )


def choice_of(sequence: Scheduled) -> Choice:
    """The answer that a scheduled sequence belongs to."""
    assert isinstance(sequence.key, Choice)
    return sequence.key


def segment_of(work: Work) -> Segment:
    cached, live = work.sequence.cached, choice_of(work.sequence).live
    assert cached is not None
    start, end = work.start, work.start + work.n_tokens
    token_ids = work.sequence.tokens[start:end]
    pictured = positions = None
    blocks: list[tuple[int, int]] = []
    if live.seen is not None:
        positions = live.seen.positions(start, end)
        blocks = live.seen.blocks_within(start, end)
        if min(token_ids) < 0:
            pictured = live.seen.part(start, end)
            token_ids = [max(0, token) for token in token_ids]
    return Segment(
        region=cached.region,
        start=start,
        token_ids=token_ids,
        wants_all=work.sequence.wants_prompt_logits,
        wants_last=work.is_last,
        adapter=live.computer.place,
        pictured=pictured,
        positions=positions,
        blocks=blocks,
    )
