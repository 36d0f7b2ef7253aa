import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastchat.engine.base import SamplingParams
from fastchat.engine.draw import uniform
from fastchat.engine.sampling import Sampler, raw_logprobs

GREEDY = SamplingParams(temperature=0)


def logits_of(seed: int, *shape: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def draw(logits: torch.Tensor, params: list[SamplingParams], **values: Any) -> list[int]:
    """One step of a fresh sampler."""
    sampler = Sampler(logits.shape[1])
    for i, one in enumerate(params):
        sampler.add(i, one, prompt_ids=values.get("prompt_ids", ()), stream=i)
    return sampler.sample(logits, list(range(len(params)))).token_ids


def kept_probs(row: torch.Tensor, params: SamplingParams) -> np.ndarray:
    """The distribution to draw from, by sorting: the plain definition. (V,)"""
    scores = row.double().numpy() / params.temperature
    probs = np.exp(scores - scores.max())
    probs /= probs.sum()
    probs[probs < params.min_p * probs.max()] = 0
    if 0 < params.top_k < len(probs):
        probs[probs < np.sort(probs)[-params.top_k]] = 0
    order = np.argsort(-probs, kind="stable")
    mass_before = np.cumsum(probs[order]) - probs[order]
    probs[order[mass_before >= params.top_p * probs.sum()]] = 0
    return probs / probs.sum()


CUTS = [
    SamplingParams(),
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.7, top_p=0.9),
    SamplingParams(top_p=0.2),
    SamplingParams(top_k=1),
    SamplingParams(top_k=7),
    SamplingParams(top_k=10_000),
    SamplingParams(min_p=0.2),
    SamplingParams(min_p=1.0),
    SamplingParams(top_k=20, top_p=0.7, temperature=1.2),
    SamplingParams(top_k=30, top_p=0.95, min_p=0.01, temperature=1.5),
]


@pytest.mark.slow
@pytest.mark.parametrize("params", CUTS, ids=str)
@pytest.mark.parametrize(
    "width",
    [pytest.param(40, marks=pytest.mark.slow), pytest.param(64, marks=pytest.mark.slow), 150],
)
def test_draws_follow_the_distribution_that_sorting_gives(
    params: SamplingParams, width: int
) -> None:
    n = 8_000
    row = logits_of(width, 1, width, scale=1.5)
    ids = draw(row.expand(n, -1), [replace(params, seed=11)] * n)
    counts = np.bincount(ids, minlength=width)
    wanted = kept_probs(row[0], params) * n
    assert counts[wanted == 0].sum() == 0
    seen = wanted > 5
    spread = ((counts - wanted)[seen] ** 2 / wanted[seen]).sum()
    freedom = max(1, int(seen.sum()) - 1)
    # Five sigma of the chi-square distribution; the seed is fixed, so this never wavers.
    assert spread < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    width=st.integers(1, 300),
    scale=st.floats(0.01, 30),
    temperature=st.floats(0.05, 2),
    top_p=st.floats(1e-7, 1),
    top_k=st.integers(-1, 320),
    min_p=st.floats(0, 1),
)
def test_no_token_outside_of_the_cut_is_drawn(
    seed: int, width: int, scale: float, **values: Any
) -> None:
    params = SamplingParams(seed=seed, **values)
    row = logits_of(seed, 1, width, scale=scale)
    ids = draw(row.expand(16, -1), [params] * 16)
    # A hair of slack where rounding may decide a border case either way.
    loose = replace(
        params, top_p=min(1, params.top_p * (1 + 1e-4) + 1e-9), min_p=params.min_p * (1 - 1e-4)
    )
    allowed = kept_probs(row[0], loose) > 0
    assert all(allowed[i] for i in ids)


def test_tokens_that_tie_with_the_last_kept_one_are_kept() -> None:
    row = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    ids = draw(row.expand(3000, -1), [SamplingParams(top_k=2, seed=3)] * 3000)
    assert set(ids) == {0, 1, 2, 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [5, 64, 1000])
def test_greedy_rows_take_the_best_token_in_any_company(dtype: torch.dtype, width: int) -> None:
    logits = logits_of(1, 8, width).to(dtype)
    best = logits.argmax(-1).tolist()
    assert draw(logits, [GREEDY] * 8) == best
    assert draw(logits, [SamplingParams(top_p=0.0)] * 8) == best
    mixed = [GREEDY if i % 2 else SamplingParams(seed=1) for i in range(8)]
    assert draw(logits, mixed)[1::2] == best[1::2]


def test_of_equal_tokens_greedy_takes_the_lowest_id() -> None:
    logits = torch.zeros(2, 200)
    logits[0, [70, 190]] = 1.0
    assert draw(logits, [GREEDY] * 2) == [70, 0]
    assert draw(logits, [GREEDY, SamplingParams()])[0] == 70


def test_the_same_seed_draws_the_same_tokens_in_any_place_and_company() -> None:
    params = SamplingParams(seed=42, temperature=1.3, top_p=0.9, repetition_penalty=1.2)
    rows = logits_of(5, 6, 500, scale=1.0)
    alone = Sampler(500)
    alone.add("a", params, prompt_ids=[1, 2, 3])
    wanted = [alone.sample(row[None], ["a"]).token_ids[0] for row in rows]

    crowd = Sampler(500)
    crowd.add("a", params, prompt_ids=[1, 2, 3])
    for i, cut in enumerate(CUTS):
        crowd.add(i, cut, prompt_ids=[i])
    crowd.add("greedy", GREEDY, prompt_ids=[])
    seen = []
    for step, row in enumerate(rows):
        keys = [*list(range(len(CUTS)))[step:], "greedy"]
        keys.insert(step, "a")
        logits = logits_of(100 + step, len(keys), 500)
        logits[step] = row
        if step == 3:  # a step without it: it was preempted, and remembers everything
            others = [key for key in keys if key != "a"]
            crowd.sample(logits_of(9, len(others), 500), others)
        seen.append(crowd.sample(logits, keys).token_ids[step])
    assert seen == wanted


def test_streams_and_seeds_and_steps_differ() -> None:
    logits = torch.zeros(1, 5000)
    seen = set()
    for seed in (0, 1):
        for stream in (0, 1):
            sampler = Sampler(5000)
            sampler.add(0, SamplingParams(seed=seed), prompt_ids=[], stream=stream)
            seen |= {sampler.sample(logits, [0]).token_ids[0] for _ in range(5)}
    assert len(seen) == 20
    unseeded = [draw(logits, [SamplingParams()])[0] for _ in range(4)]
    assert len(set(unseeded)) == 4


def test_uniform_numbers_fill_the_unit_interval_evenly() -> None:
    numbers = np.array([uniform(3, 0, step) for step in range(20_000)])
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 49 + 5 * math.sqrt(98)
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03
    assert uniform(-1, 0, 0) == uniform(2**64 - 1, 0, 0) != uniform(1, 0, 0)


def test_penalties_follow_their_formulas_step_by_step() -> None:
    params = SamplingParams(
        temperature=0,
        repetition_penalty=1.3,
        presence_penalty=0.7,
        frequency_penalty=0.4,
        logit_bias={9: 0.5, 2: -100.0},
    )
    width, prompt = 30, [1, 1, 4, 29]
    sampler = Sampler(width)
    sampler.add("x", params, prompt_ids=prompt)
    sampler.add("plain", GREEDY, prompt_ids=prompt)
    output: list[int] = []
    for step in range(60):
        logits = logits_of(step % 3, 2, width, scale=1.0)
        scores = logits[0].clone()
        for i in {*prompt, *output}:
            scores[i] = scores[i] / 1.3 if scores[i] > 0 else scores[i] * 1.3
        for i in set(output):
            scores[i] -= 0.7 + 0.4 * output.count(i)
        scores[9] += 0.5
        scores[2] -= 100
        before = logits.clone()
        drawn = sampler.sample(logits, ["x", "plain"]).token_ids
        assert torch.equal(logits, before)
        assert drawn == [scores.argmax().item(), logits[1].argmax().item()]
        output.append(drawn[0])
    assert len(set(output)) > 10


def test_penalties_shift_the_scores_before_the_temperature() -> None:
    # A bias of log 4 makes a token four times as likely, at half the temperature 16 times.
    row = torch.zeros(1, 4)
    n = 8_000
    params = SamplingParams(temperature=0.5, logit_bias={3: math.log(4)}, seed=1)
    ids = draw(row.expand(n, -1), [params] * n)
    assert np.bincount(ids)[3] / n == pytest.approx(16 / 19, abs=0.02)


def test_log_probabilities_are_of_the_raw_distribution() -> None:
    logits = logits_of(0, 3, 100)
    wanted = logits.log_softmax(-1)
    sampler = Sampler(100)
    sampler.add(
        0, SamplingParams(temperature=0.1, logit_bias={5: 100.0}), prompt_ids=[], logprobs=4
    )
    sampler.add(1, GREEDY, prompt_ids=[])
    sampler.add(2, GREEDY, prompt_ids=[], logprobs=0)
    batch = sampler.sample(logits, [0, 1, 2])
    first, second, third = batch.logprobs
    assert batch.token_ids[0] == 5 and first is not None
    assert first.logprob == pytest.approx(wanted[0, 5].item(), abs=1e-5)
    best = wanted[0].topk(4)
    assert first.top_ids == tuple(best.indices.tolist())
    assert first.top_logprobs == pytest.approx(best.values.tolist(), abs=1e-5)
    assert second is None
    assert third is not None and third.top_ids == ()


@pytest.mark.parametrize("width", [10, 64, 4096, 5000])
def test_the_best_alternatives_are_found_in_any_width(width: int) -> None:
    logits = logits_of(3, 4, width)
    found = raw_logprobs(logits, [0, 1, 2, 3], top=20)
    wanted = logits.topk(min(20, width), dim=-1).indices.tolist()
    assert [list(row.top_ids) for row in found] == wanted
    named = found[0].named(str)
    assert named.token == "0" and named.top[0][0] == str(wanted[0][0])


def test_a_row_without_a_distribution_fails_alone() -> None:
    for others in (GREEDY, SamplingParams(seed=1, top_p=0.9)):
        logits = logits_of(2, 4, 100)
        logits[1] = float("nan")
        logits[3] = float("-inf")
        wanted = draw(logits_of(2, 4, 100), [others] * 4)
        sampler = Sampler(100)
        for i in range(4):
            sampler.add(i, others, prompt_ids=[], stream=i)
        batch = sampler.sample(logits, [0, 1, 2, 3])
        assert batch.failed == (1, 3)
        assert [batch.token_ids[i] for i in (0, 2)] == [wanted[0], wanted[2]]


def test_rows_come_and_go() -> None:
    sampler = Sampler(50)
    sampler.add("a", GREEDY, prompt_ids=[])
    sampler.remove("a")
    sampler.remove("a")
    with pytest.raises(KeyError):
        sampler.sample(torch.zeros(1, 50), ["a"])
    sampler.add("a", SamplingParams(seed=1), prompt_ids=[])
    assert 0 <= sampler.sample(torch.zeros(1, 50), ["a"]).token_ids[0] < 50


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.full((200, 70), float("-inf"))
    logits[:, [3, 69]] = 0.0
    params = [SamplingParams(seed=i, top_p=0.99, temperature=2.0) for i in range(200)]
    assert set(draw(logits, params)) == {3, 69}
