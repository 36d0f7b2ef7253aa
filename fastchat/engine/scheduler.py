"""Which sequences a step advances: admission, room in the cache, preemption.

First come, first served. Every step gives each answering sequence its next token and spends the
rest of its tokens on prompts, oldest first. Where the cache is full, finished texts go first;
then the youngest sequence gives up its place, waits in front of the queue, and is computed
again later with the tokens it had. What it has said and drawn is not touched by that.

Knows nothing of text, sampling or clients.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from fastchat.engine.kv_cache import BLOCK, CachedText, KVCache

ROOM = 256
"""Tokens of an answer that room is made for at first, at most."""

LOOKAHEAD = 64
"""Waiting sequences that one step considers."""

LEAST_PROMPT_TOKENS = 16
"""What a step gives to prompts however many sequences are answering."""


class Sequence:
    """One choice of one request, as far as the scheduler needs it."""

    __slots__ = (
        "answers_at_most",
        "blocks",
        "cached",
        "has_run",
        "is_held",
        "key",
        "n_prompt",
        "n_reused",
        "text_key",
        "tokens",
        "wants_prompt_logits",
    )

    def __init__(
        self,
        key: object,
        prompt_ids: list[int],
        *,
        answers_at_most: int,
        wants_prompt_logits: bool = False,
        text_key: int = 0,
        blocks: Iterable[tuple[int, int]] = (),
    ) -> None:
        self.key = key
        """What the caller knows it by."""
        self.text_key = text_key
        """What computes it; only texts of the same are reused for it."""
        self.tokens = list(prompt_ids)
        """Prompt and answer; the caller appends to it."""
        self.n_prompt = len(prompt_ids)
        self.answers_at_most = answers_at_most
        self.wants_prompt_logits = wants_prompt_logits
        """Logits after every token of the prompt, which therefore must all be computed."""
        self.is_held = False
        """Not to be admitted yet."""
        self.has_run = False
        self.n_reused = 0
        """Tokens of the prompt that were not computed for it."""
        self.cached: CachedText | None = None
        self.blocks = tuple(blocks)
        """Places from the first to behind the last of tokens that are computed in one step."""

    def whole(self, n_tokens: int, *, least: int = 0) -> int:
        """So many tokens or fewer, no block being cut; more, where that would be `least`."""
        for start, end in self.blocks:
            if start < n_tokens < end:
                return start if start > least else end
        return n_tokens

    @property
    def n_missing(self) -> int:
        """Tokens to compute before the next can be drawn."""
        return len(self.tokens) - (0 if self.cached is None else self.cached.n_computed)


@dataclass(frozen=True, slots=True)
class Work:
    """What one step computes of one sequence."""

    sequence: Sequence
    start: int
    n_tokens: int

    @property
    def is_last(self) -> bool:
        """Whether the next token can be drawn after it."""
        return self.start + self.n_tokens == len(self.sequence.tokens)


class Scheduler:
    """Queues, and a share of the cache for each running sequence."""

    def __init__(self, cache: KVCache, *, max_running: int, max_step_tokens: int) -> None:
        self._cache = cache
        self._max_running = max_running
        self._max_step_tokens = max_step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        """In order of admission, the youngest last."""
        self.prefix_hit_tokens = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Ends a sequence; what it computed stays for others to reuse, if kept."""
        if sequence.cached is not None:
            self.running.remove(sequence)
            self._cache.close(sequence.cached, keep=keep)
            sequence.cached = None
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Takes a sequence out of every queue, whatever has become of what it holds."""
        sequence.cached = None
        self.running = [s for s in self.running if s is not sequence]
        self.waiting = deque(s for s in self.waiting if s is not sequence)

    def plan(self) -> list[Work]:
        """The work of the next step, single tokens first and in the order of their regions."""
        self._admit()
        single = [s for s in self.running if s.n_missing == 1]
        for sequence in single:
            if sequence.cached is not None:
                self._make_room(sequence)
        single = [s for s in single if s.cached is not None]
        work = [Work(s, len(s.tokens) - 1, 1) for s in single]
        work.sort(key=_region_start)
        budget = max(self._max_step_tokens - len(work), LEAST_PROMPT_TOKENS)
        for sequence in self.running:
            if budget and (missing := sequence.n_missing) > 1:
                start = len(sequence.tokens) - missing
                n = sequence.whole(start + min(missing, budget), least=start) - start
                work.append(Work(sequence, start, n))
                budget = max(0, budget - n)
        return work

    def advance(self, work: list[Work]) -> None:
        """Notes that the work is done."""
        for item in work:
            assert item.sequence.cached is not None
            item.sequence.cached.n_computed = item.start + item.n_tokens

    def _admit(self) -> None:
        """Moves waiting sequences to the running ones, as far as there is room."""
        passed: list[Sequence] = []
        while self.waiting and len(self.running) < self._max_running and len(passed) < LOOKAHEAD:
            sequence = self.waiting.popleft()
            source, n_shared = None, 0
            if not sequence.wants_prompt_logits:
                source, n_shared = self._cache.find(sequence.tokens, key=sequence.text_key)
            if sequence.is_held or _is_worth_waiting(source, n_shared, sequence):
                passed.append(sequence)
                continue
            # A sequence that comes back gets more, so that it does not soon give up again.
            room = max(ROOM, len(sequence.tokens) - sequence.n_prompt)
            room = min(room, sequence.answers_at_most + sequence.n_prompt - len(sequence.tokens))
            if source is not None:
                n_shared = min(n_shared, source.n_computed, len(sequence.tokens) - 1)
                n_shared = sequence.whole(n_shared, least=-1)
            cached = self._cache.open(
                sequence.tokens,
                max(1, room),
                source=source,
                n_shared=n_shared,
                key=sequence.text_key,
            )
            if cached is None:
                passed.append(sequence)
                break
            sequence.cached = cached
            self.running.append(sequence)
            self.prefix_hit_tokens += cached.n_reused
            if not sequence.has_run:
                sequence.n_reused, sequence.has_run = cached.n_reused, True
        self.waiting.extendleft(reversed(passed))

    def _make_room(self, sequence: Sequence) -> None:
        """Room for one more token; younger sequences, at last itself, give up theirs for it."""
        assert sequence.cached is not None
        while not self._cache.ensure(sequence.cached, len(sequence.tokens)):
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        assert sequence.cached is not None
        self._cache.close(sequence.cached, keep=False)
        sequence.cached = None
        self.waiting.appendleft(sequence)


def _region_start(work: Work) -> int:
    cached = work.sequence.cached
    assert cached is not None
    return cached.region.start


def _is_worth_waiting(source: CachedText | None, n_shared: int, sequence: Sequence) -> bool:
    """Whether a running sequence is about to compute a good part of this one's prompt."""
    if source is None or not source.is_live:
        return False
    n_useful = min(n_shared, len(sequence.tokens) - 1)
    return n_useful - source.n_computed >= BLOCK
