"""One batch of logits -> one token per row, each row by its own settings.

The order is repetition penalty (prompt and output), presence and frequency penalty (output),
bias, temperature, the row's grammar, then min-p, top-k and top-p, each on what the one before it
left: penalties
and bias are of the raw scores, as OpenAI defines them and other servers apply them.
Nothing is sorted: a token is drawn by inverse CDF in id order, and top-p accepts it when the
mass of the tokens more probable than it is below p; otherwise the draw is repeated among just
those tokens (the dual-pivot rejection of FlashInfer, https://flashinfer.ai/2025/03/10/sampling.html),
which leaves the distribution exactly that of a sorted cut. Tokens that tie with the last kept
one are kept too, so ties never depend on an order.

Each uniform number is a hash of (seed, stream, step, attempt). A row therefore draws the same
numbers in any place of any batch, and being preempted changes nothing.

Dimensions: R rows of the batch, V vocabulary. The arithmetic is in `draw.py`.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastchat.engine.base import SamplingParams, TokenLogprob
from fastchat.engine.draw import (
    best_values,
    block_sums,
    inverse_cdf,
    most_probable,
    only_above,
    padded,
    uniform,
    without_failed,
)
from fastchat.engine.grammar import apply_masks, fill_masks

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, device

    from fastchat.engine.grammar import Constraint


@dataclass(frozen=True, slots=True)
class RawLogprob:
    """Log-probabilities of one token under the raw distribution, without texts."""

    token_id: int
    logprob: float
    top_ids: tuple[int, ...]
    """Best first."""
    top_logprobs: tuple[float, ...]

    def named(self, text_of: Callable[[int], str]) -> TokenLogprob:
        """The same with the tokens' texts."""
        best = zip(self.top_ids, self.top_logprobs, strict=True)
        top = tuple((text_of(i), i, value) for i, value in best)
        return TokenLogprob(text_of(self.token_id), self.token_id, self.logprob, top)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledBatch:
    """What one step drew, in the order of its rows."""

    token_ids: list[int]
    logprobs: list[RawLogprob | None]
    """None for rows that did not ask."""
    failed: tuple[int, ...] = ()
    """Rows without a usable distribution (not-a-number or no finite logit); their id is 0."""
    complete: frozenset[int] = frozenset()
    """Rows whose grammar lets nothing follow."""


def is_greedy(params: SamplingParams) -> bool:
    """Whether the settings leave no choice but the most probable token."""
    return params.temperature < 1e-5 or params.top_p < 1e-8


def raw_logprobs(logits: Tensor, token_ids: Sequence[int], *, top: int) -> list[RawLogprob]:
    """Log-probabilities of `token_ids` and of the `top` best tokens of each row.

    logits: (R, V), before any processing; token_ids: (R,).
    """
    import torch

    logits = logits.float()
    normalizer = logits.logsumexp(-1)  # (R,)
    chosen_ids = torch.tensor(token_ids, device=logits.device).unsqueeze(1)
    chosen = (logits.gather(1, chosen_ids).squeeze(1) - normalizer).tolist()
    if top <= 0:
        rows = zip(token_ids, chosen, strict=True)
        return [RawLogprob(token, value, (), ()) for token, value in rows]
    best, best_ids = best_values(logits, min(top, logits.shape[1]))
    best_logprobs = (best - normalizer.unsqueeze(1)).tolist()
    rows = zip(token_ids, chosen, best_ids.tolist(), best_logprobs, strict=True)
    return [RawLogprob(i, value, tuple(ids), tuple(values)) for i, value, ids, values in rows]


class Sampler:
    """Draws the next token of every row of a batch.

    Rows are known by a key of the caller's choice. What a row needs to remember (its step, the
    tokens it has seen) lives here from `add` to `remove`, whether or not it is in the batch.
    """

    def __init__(self, vocab_size: int, device: device | str = "cpu") -> None:
        self.vocab_size = vocab_size
        self.device = device
        self._rows: dict[Hashable, _Row] = {}
        self._plan: _Plan | None = None

    def add(
        self,
        key: Hashable,
        params: SamplingParams,
        *,
        prompt_ids: Sequence[int],
        stream: int = 0,
        logprobs: int | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        """Makes a row known.

        Args:
            key: the caller's name for the row.
            params: how its tokens are drawn; without a seed it gets a random one.
            prompt_ids: what the repetition penalty counts beside the output.
            stream: which of the independent answers of one seed this is.
            logprobs: alternatives to report, None for nothing.
            constraint: the row's way through its grammar; the sampler advances it.
        """
        row = _Row(params, prompt_ids, stream=stream, logprobs=logprobs)
        row.constraint = constraint
        self._rows[key] = row
        self._plan = None

    def remove(self, key: Hashable) -> None:
        """Forgets a row; one that is not known is no error."""
        if self._rows.pop(key, None) is not None:
            self._plan = None

    def sample(self, logits: Tensor, keys: Sequence[Hashable]) -> SampledBatch:
        """One token for each row; the rows' own counts go on by it.

        logits: (R, V) of any float type, left as it is; keys: (R,), each of them added.
        """
        plan = self._plan
        if plan is None or plan.keys != keys:
            plan = self._plan = _Plan(keys, [self._rows[key] for key in keys])
        token_ids, failed = self._draw(logits, plan)
        complete: frozenset[int] = frozenset()
        if plan.constrained:
            complete, broken = plan.advance(token_ids)
            failed = tuple(sorted({*failed, *broken}))
        logprobs: list[RawLogprob | None] = [None] * len(keys)
        if plan.asking:
            top = max(plan.rows[i].logprobs or 0 for i in plan.asking)
            raw = raw_logprobs(logits[plan.asking], [token_ids[i] for i in plan.asking], top=top)
            for i, one in zip(plan.asking, raw, strict=True):
                n = plan.rows[i].logprobs or 0
                logprobs[i] = RawLogprob(
                    one.token_id, one.logprob, one.top_ids[:n], one.top_logprobs[:n]
                )
        for row, token in zip(plan.rows, token_ids, strict=True):
            row.count(token)
        return SampledBatch(
            token_ids=token_ids, logprobs=logprobs, failed=failed, complete=complete
        )

    def _draw(self, logits: Tensor, plan: _Plan) -> tuple[list[int], tuple[int, ...]]:
        """The ids of all rows, and which rows had no usable distribution."""
        held = [i for i in plan.constrained if plan.constraint(i).is_active]
        if plan.is_plain_greedy and not held:
            return most_probable(logits)
        scores = logits.float() if logits.dtype.itemsize < 4 else logits.clone()
        plan.apply(scores)
        if held:
            masks = fill_masks([plan.constraint(i) for i in held], scores.shape[1])
            apply_masks(scores, held, masks)
        if not plan.random:
            return most_probable(scores)
        if not plan.greedy:
            return self._draw_random(scores, plan)
        token_ids = [0] * len(plan.rows)
        failed: list[int] = []
        greedy_ids, greedy_failed = most_probable(scores[plan.greedy])
        random_ids, random_failed = self._draw_random(scores[plan.random], plan)
        for places, ids, bad in (
            (plan.greedy, greedy_ids, greedy_failed),
            (plan.random, random_ids, random_failed),
        ):
            for place, token in zip(places, ids, strict=True):
                token_ids[place] = token
            failed.extend(places[i] for i in bad)
        return token_ids, tuple(sorted(failed))

    def _draw_random(self, scores: Tensor, plan: _Plan) -> tuple[list[int], tuple[int, ...]]:
        """Ids drawn for the rows of `plan.random`; scores: (rows drawn, V), overwritten."""
        import torch

        probs = padded(scores).softmax(-1)
        plan.cut(probs)
        rows = [plan.rows[i] for i in plan.random]
        sums = block_sums(probs)
        token_ids, pivot = inverse_cdf(probs, sums, [row.uniform(0) for row in rows])
        mass = sums.sum(-1, dtype=torch.float64)
        usable = torch.isfinite(mass)
        failed = tuple((~usable).nonzero().flatten().tolist())
        if not plan.has_top_p:
            return without_failed(token_ids.tolist(), failed), failed
        limit = _column([row.params.top_p for row in rows], probs).double() * mass  # (R,)
        pending = torch.arange(len(rows), device=probs.device)
        attempt = 0
        while True:
            # A token belongs to the nucleus when the tokens above it do not fill it already.
            above = only_above(probs, pivot)
            sums = block_sums(above)
            is_outside = (sums.sum(-1, dtype=torch.float64) >= limit) & usable[pending]
            again = is_outside.nonzero().flatten()
            if not len(again):
                break
            attempt += 1
            pending, limit, probs = pending[again], limit[again], above[again]
            draws = [rows[i].uniform(attempt) for i in pending.tolist()]
            token_ids[pending], pivot = inverse_cdf(probs, sums[again], draws)
        return without_failed(token_ids.tolist(), failed), failed


class _Row:
    """What one row remembers between its steps."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        *,
        stream: int,
        logprobs: int | None,
    ) -> None:
        self.params = params
        self.logprobs = logprobs
        self.constraint: Constraint | None = None
        self.is_greedy = is_greedy(params)
        self._seed = random.getrandbits(64) if params.seed is None else params.seed
        self._stream = stream
        self._step = 0
        self.repeats = params.repetition_penalty != 1.0
        self.penalizes = params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        self._seen = _Counts(prompt_ids if self.repeats else ())
        self._output = _Counts(())
        bias = params.logit_bias
        self.bias_ids = np.fromiter(bias.keys(), np.int64, len(bias))
        self.bias_values = np.fromiter(bias.values(), np.float32, len(bias))

    @property
    def seen_ids(self) -> np.ndarray:
        """Different ids of prompt and output."""
        return self._seen.ids

    @property
    def output_ids(self) -> np.ndarray:
        """Different ids of the output."""
        return self._output.ids

    @property
    def output_penalties(self) -> np.ndarray:
        """What presence and frequency subtract from each of `output_ids`."""
        p = self.params
        return (p.presence_penalty + p.frequency_penalty * self._output.counts).astype(np.float32)

    def uniform(self, attempt: int) -> float:
        """The number that decides this step's draw."""
        return uniform(self._seed, self._stream, self._step, attempt)

    def count(self, token_id: int) -> None:
        """Goes on to the next step, `token_id` being the output of this one."""
        self._step += 1
        if self.repeats:
            self._seen.add(token_id)
        if self.penalizes:
            self._output.add(token_id)


class _Counts:
    """Different ids with how often each occurred, as arrays that grow in place."""

    def __init__(self, ids: Sequence[int]) -> None:
        unique, counts = np.unique(np.asarray(ids, dtype=np.int64), return_counts=True)
        self._place = {token: i for i, token in enumerate(unique.tolist())}
        self._ids = unique
        self._counts = counts.astype(np.int64)

    @property
    def ids(self) -> np.ndarray:
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> np.ndarray:
        return self._counts[: len(self._place)]

    def add(self, token_id: int) -> None:
        place = self._place.setdefault(token_id, len(self._place))
        if place == len(self._ids):
            room = np.zeros(max(64, len(self._ids)), dtype=np.int64)
            self._ids = np.concatenate([self._ids, room])
            self._counts = np.concatenate([self._counts, room])
        if place == len(self._place) - 1:
            self._ids[place] = token_id
        self._counts[place] += 1


class _Plan:
    """The settings of the rows of one batch as arrays; kept while the same rows come again."""

    def __init__(self, keys: Sequence[Hashable], rows: list[_Row]) -> None:
        self.keys = list(keys)
        self.rows = rows
        self.greedy = [i for i, row in enumerate(rows) if row.is_greedy]
        self.random = [i for i, row in enumerate(rows) if not row.is_greedy]
        self.asking = [i for i, row in enumerate(rows) if row.logprobs is not None]
        self.constrained = [i for i, row in enumerate(rows) if row.constraint is not None]
        self._repeating = [(i, row) for i, row in enumerate(rows) if row.repeats]
        self._penalizing = [(i, row) for i, row in enumerate(rows) if row.penalizes]
        self._biased = [(i, row) for i, row in enumerate(rows) if len(row.bias_ids)]
        changes = bool(self._repeating or self._penalizing or self._biased)
        self.is_plain_greedy = not self.random and not changes
        drawn = [rows[i].params for i in self.random]
        self.has_top_p = any(p.top_p < 1.0 for p in drawn)
        self._min_p = [p.min_p for p in drawn] if any(p.min_p > 0 for p in drawn) else None
        self._top_k = [(i, p.top_k) for i, p in enumerate(drawn) if p.top_k > 0]
        self._inverse_temperature = (
            [1.0 if row.is_greedy else 1.0 / row.params.temperature for row in rows]
            if any(p.temperature != 1.0 for p in drawn)
            else None
        )

    def constraint(self, place: int) -> Constraint:
        """That of a row which has one."""
        constraint = self.rows[place].constraint
        assert constraint is not None
        return constraint

    def advance(self, token_ids: Sequence[int]) -> tuple[frozenset[int], list[int]]:
        """Takes each grammar past its token: rows that are complete, and rows that broke."""
        complete = frozenset(i for i in self.constrained if self.constraint(i).accept(token_ids[i]))
        return complete, [i for i in self.constrained if self.constraint(i).is_broken]

    def apply(self, scores: Tensor) -> None:
        """Penalties, bias and temperature, in place. scores: (R, V) float32."""
        flat = scores.view(-1)
        if self._repeating:
            _discourage(flat, self._repeating, width=scores.shape[1])
        if self._penalizing:
            ids = [i * scores.shape[1] + row.output_ids for i, row in self._penalizing]
            values = [-row.output_penalties for _, row in self._penalizing]
            _add_at(flat, ids, values)
        if self._biased:
            ids = [i * scores.shape[1] + row.bias_ids for i, row in self._biased]
            _add_at(flat, ids, [row.bias_values for _, row in self._biased])
        if self._inverse_temperature is not None:
            scores.mul_(_column(self._inverse_temperature, scores).unsqueeze(1))

    def cut(self, probs: Tensor) -> None:
        """Zeroes what min-p and top-k exclude, in place. probs: (rows drawn, V)."""
        import torch

        if self._min_p is None and not self._top_k:
            return
        floor = torch.zeros(len(probs), 1, device=probs.device)
        if self._min_p is not None:
            floor = _column(self._min_p, probs).unsqueeze(1) * probs.amax(-1, keepdim=True)
        if top_k := [(i, k) for i, k in self._top_k if k < probs.shape[1]]:
            places = [i for i, _ in top_k]
            best, _ = best_values(probs[places], max(k for _, k in top_k))
            kth = torch.tensor([k - 1 for _, k in top_k], device=probs.device).unsqueeze(1)
            floor[places] = torch.maximum(floor[places], best.gather(1, kth))
        kept = torch.empty_like(probs)
        torch.ge(probs, floor, out=kept)  # into floats: 4 times quicker than by way of booleans
        probs.mul_(kept)


def _discourage(flat: Tensor, rows: Sequence[tuple[int, _Row]], *, width: int) -> None:
    """The repetition penalty of CTRL: a seen token's score is divided, if negative multiplied."""
    import torch

    ids = torch.from_numpy(np.concatenate([i * width + row.seen_ids for i, row in rows]))
    sizes = [len(row.seen_ids) for _, row in rows]
    factors = np.repeat([row.params.repetition_penalty for _, row in rows], sizes)
    ids = ids.to(flat.device)
    penalty = torch.from_numpy(factors.astype(np.float32)).to(flat.device)
    scores = flat.index_select(0, ids)
    flat.index_copy_(0, ids, torch.where(scores > 0, scores / penalty, scores * penalty))


def _add_at(flat: Tensor, ids: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> None:
    """Adds to single scores; no id occurs twice."""
    import torch

    places = torch.from_numpy(np.concatenate(ids)).to(flat.device)
    flat.index_add_(0, places, torch.from_numpy(np.concatenate(values)).to(flat.device))


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """(R,) float32 on the device of `like`."""
    import torch

    return torch.tensor(values, dtype=torch.float32, device=like.device)
