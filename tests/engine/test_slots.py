import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastchat.engine.base import Chunk, GenerationRequest, SamplingParams
from fastchat.engine.choose import EngineSettings, open_engine
from fastchat.engine.slots import SlotEngine
from fastchat.errors import ContextOverflowError, ModelError, UnavailableError, UsageError
from fastchat.message import Message
from fastchat.model.load import ModelSettings
from tests.engine.conftest import CONTEXT, VOCABULARY

GREEDY = SamplingParams(temperature=0.0)
SHAPED = SamplingParams(
    temperature=0.9,
    top_p=0.9,
    top_k=50,
    repetition_penalty=1.1,
    presence_penalty=0.3,
    frequency_penalty=0.2,
    logit_bias={7: 2.0},
    seed=11,
)


async def opened(folder: Path, **settings: Any) -> SlotEngine:
    engine = await open_engine(
        ModelSettings(model_path=str(folder), dtype="float32", num_threads=1, device="cpu"),
        EngineSettings(**{"max_cached_tokens": 4096, **settings}),
    )
    assert isinstance(engine, SlotEngine)
    return engine


@pytest.fixture
async def engine(model_folder: Callable[[str], Path]) -> AsyncIterator[SlotEngine]:
    running = await opened(model_folder("llama"))
    yield running
    await running.stop(0.0)


def request(prompt: Sequence[int] | str, n_tokens: int = 12, **values: Any) -> GenerationRequest:
    text = prompt if isinstance(prompt, str) else tuple(prompt)
    values = {"sampling": GREEDY, "ignore_eos": True, **values}
    return GenerationRequest(request_id="test", prompt=text, max_tokens=n_tokens, **values)


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()


async def chunks_of(engine: SlotEngine, wanted: GenerationRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.generate(wanted)]


async def ids_of(engine: SlotEngine, wanted: GenerationRequest) -> list[int]:
    found: list[int] = []
    for chunk in await chunks_of(engine, wanted):
        assert chunk.error is None
        found += chunk.token_ids
    return found


def last_of(chunks: list[Chunk], index: int = 0) -> Chunk:
    """The one chunk that ends a choice."""
    (end,) = [c for c in chunks if c.finish_reason is not None and c.index == index]
    return end


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what the model's thread is about to do."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


async def test_chunks_end_with_a_reason_and_exact_counts(engine: SlotEngine) -> None:
    chunks = await chunks_of(engine, request(prompt(20), 9))
    end = last_of(chunks)
    assert chunks[-1] is end
    assert end.finish_reason == "length"
    assert end.usage is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (20, 9)
    ids = [i for c in chunks for i in c.token_ids]
    assert len(ids) == 9
    assert "".join(c.text for c in chunks) == engine.detokenize(ids)


async def test_messages_are_rendered_and_answered(engine: SlotEngine) -> None:
    messages = (Message(role="user", text="hello"),)
    asked = GenerationRequest(
        request_id="test", messages=messages, max_tokens=5, sampling=GREEDY, ignore_eos=True
    )
    end = last_of(await chunks_of(engine, asked))
    ids = engine.tokenize(engine.render(messages))
    assert ids.count(1) == 1
    assert end.usage is not None
    assert end.usage.prompt_tokens == len(ids)


async def test_the_same_seed_gives_the_same_text_in_any_company(engine: SlotEngine) -> None:
    wanted = request(prompt(30), 25, sampling=SHAPED)
    alone = await ids_of(engine, wanted)
    others = [
        request(prompt(10 + 7 * i, i), 5 + 5 * i, sampling=replace(SHAPED, seed=i, top_k=i))
        for i in range(6)
    ]
    first, *_ = await asyncio.gather(*(ids_of(engine, r) for r in (wanted, *others)))
    *_, last = await asyncio.gather(*(ids_of(engine, r) for r in (*others, wanted)))
    assert alone == first == last
    other_seed = replace(wanted, sampling=replace(SHAPED, seed=12))
    assert await ids_of(engine, other_seed) != alone


async def test_n_choices_share_the_prompt_and_differ(engine: SlotEngine) -> None:
    chunks = await chunks_of(engine, request(prompt(60), 15, n=4, sampling=SHAPED))
    texts = ["".join(c.text for c in chunks if c.index == i) for i in range(4)]
    assert len(set(texts)) == 4
    usages = [last_of(chunks, i).usage for i in range(4)]
    assert sorted(u.cached_tokens for u in usages if u is not None) == [0, 59, 59, 59]
    again = await chunks_of(engine, request(prompt(60), 15, n=4, sampling=SHAPED))
    assert texts == ["".join(c.text for c in again if c.index == i) for i in range(4)]


async def test_a_stop_string_ends_the_text_before_it(engine: SlotEngine) -> None:
    free = "".join(c.text for c in await chunks_of(engine, request(prompt(20), 40)))
    at = next(i for i in range(5, len(free) - 3) if free.find(free[i : i + 3]) == i)
    chunks = await chunks_of(engine, request(prompt(20), 40, stop=(free[at : at + 3], "nowhere")))
    assert "".join(c.text for c in chunks) == free[:at]
    assert last_of(chunks).finish_reason == "stop"


async def test_stop_ids_and_end_tokens_end_the_text_unseen(engine: SlotEngine) -> None:
    free = await ids_of(engine, request(prompt(20), 20))
    stop = next(i for i in free[3:] if i not in free[:3])
    chunks = await chunks_of(engine, request(prompt(20), 20, stop_token_ids=(stop,)))
    assert last_of(chunks).finish_reason == "stop"
    assert [i for c in chunks for i in c.token_ids] == free[: free.index(stop) + 1]
    assert "".join(c.text for c in chunks) == engine.detokenize(free[: free.index(stop)])
    to_the_end = SamplingParams(temperature=0.0, logit_bias={2: 100.0})
    ended = last_of(await chunks_of(engine, request([5, 6], sampling=to_the_end, ignore_eos=False)))
    assert ended.finish_reason == "stop"
    assert ended.usage is not None
    assert ended.usage.completion_tokens == 1
    went_on = last_of(await chunks_of(engine, request([5, 6], sampling=to_the_end)))
    assert went_on.finish_reason == "length"


async def test_log_probabilities_are_those_of_the_raw_distribution(
    engine: SlotEngine, model_folder: Callable[[str], Path]
) -> None:
    from transformers import AutoModelForCausalLM

    ids = prompt(30)
    wanted = request(ids, 6, sampling=SHAPED, logprobs=3, echo=True, n=2)
    chunks = await chunks_of(engine, wanted)
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    for index in range(2):
        mine = [c for c in chunks if c.index == index]
        assert mine[0].text == engine.detokenize(ids)
        tokens = [t for c in mine for t in c.logprobs]
        answer = [i for c in mine for i in c.token_ids]
        assert [t.token_id for t in tokens] == ids + answer
        assert tokens[0].logprob is None
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids + answer])).logits[0].log_softmax(-1)
        for place, token in enumerate(tokens[1:]):
            best, best_ids = logprobs[place].topk(3)
            assert token.logprob == pytest.approx(logprobs[place, token.token_id].item(), abs=1e-3)
            assert [i for _, i, _ in token.top] == best_ids.tolist()
            assert [v for *_, v in token.top] == pytest.approx(best.tolist(), abs=1e-3)


async def test_nothing_is_generated_for_an_echo_of_no_tokens(engine: SlotEngine) -> None:
    ids = prompt(20)
    chunks = await chunks_of(engine, request(ids, 0, echo=True, logprobs=0))
    assert "".join(c.text for c in chunks) == engine.detokenize(ids)
    assert [t.token_id for c in chunks for t in c.logprobs] == ids
    end = last_of(chunks)
    assert end.finish_reason == "length"
    assert end.usage is not None
    assert end.usage.completion_tokens == 0
    plain = await chunks_of(engine, request(ids, 3, echo=True))
    assert plain[0].text == engine.detokenize(ids)


async def test_a_repeated_prompt_is_taken_from_the_cache(engine: SlotEngine) -> None:
    wanted = request(prompt(100), 10)
    first = await chunks_of(engine, wanted)
    second = await chunks_of(engine, wanted)
    usages = [last_of(c).usage for c in (first, second)]
    assert [u.cached_tokens for u in usages if u is not None] == [0, 99]
    assert [c.token_ids for c in first] == [c.token_ids for c in second]
    # The next turn of a conversation begins with the last prompt and its answer.
    answer = [i for c in first for i in c.token_ids]
    turn = last_of(await chunks_of(engine, request(prompt(100) + answer + prompt(9, 1))))
    assert turn.usage is not None
    assert turn.usage.cached_tokens == 109


async def test_a_burst_computes_its_common_beginning_once(engine: SlotEngine) -> None:
    shared = prompt(64)
    burst = [request(shared + prompt(8, i), 4) for i in range(1, 9)]
    found = await asyncio.gather(*(chunks_of(engine, r) for r in burst))
    cached = sorted(u.cached_tokens for c in found if (u := last_of(c).usage) is not None)
    assert cached == [0] + [64] * 7
    for wanted, chunks in zip(burst, found, strict=True):
        alone = await ids_of(engine, wanted)
        assert alone == [i for c in chunks for i in c.token_ids]


@pytest.mark.slow
async def test_a_full_cache_changes_no_text(model_folder: Callable[[str], Path]) -> None:
    asked = [request(prompt(20 + i, i), 70 + 3 * i, sampling=SHAPED) for i in range(5)]
    roomy = await opened(model_folder("llama"))
    wanted = [await ids_of(roomy, r) for r in asked]
    await roomy.stop()
    tight = await opened(model_folder("llama"), max_cached_tokens=CONTEXT, max_step_tokens=32)
    found = await asyncio.gather(*(ids_of(tight, r) for r in asked))
    computed = tight.stats()
    await tight.stop()
    assert list(found) == wanted
    assert computed.cached_tokens <= CONTEXT


async def test_closing_the_iterator_frees_the_place(engine: SlotEngine) -> None:
    answers = engine.generate(request(prompt(10), 200))
    await anext(answers)
    assert engine.stats().running == 1
    await answers.aclose()  # type: ignore[attr-defined]
    await until(lambda: engine.stats().running == 0)
    steps = engine.stats().steps_total
    assert await ids_of(engine, request(prompt(5), 2))
    assert engine.stats().steps_total <= steps + 3


async def test_a_waiting_client_that_leaves_is_dropped(model_folder: Callable[[str], Path]) -> None:
    engine = await opened(model_folder("llama"), max_running=1)
    long = engine.generate(request(prompt(10), 240))
    await anext(long)
    waiting = asyncio.create_task(ids_of(engine, request(prompt(10, 1), 5)))
    await until(lambda: engine.stats().waiting == 1)
    waiting.cancel()
    await until(lambda: engine.stats().waiting == 0)
    await engine.stop(0.0)
    rest = [chunk async for chunk in long]
    assert last_of(rest).finish_reason in ("abort", "length")


async def test_a_failed_step_ends_its_requests_and_no_others(
    engine: SlotEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = await ids_of(engine, request(prompt(40), 10))
    forward = engine._packed.forward
    calls = 0

    def fails_once(segments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("secret detail of the inside")
        return forward(segments)

    monkeypatch.setattr(engine._packed, "forward", fails_once)
    failed = last_of(await chunks_of(engine, request(prompt(30), 10)))
    assert failed.finish_reason == "error"
    assert isinstance(failed.error, ModelError)
    assert "secret" not in failed.error.message
    assert await ids_of(engine, request(prompt(40), 10)) == wanted
    assert engine.stats().running == engine.stats().waiting == 0


async def test_a_device_that_fails_at_everything_still_ends_its_requests(
    engine: SlotEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(engine._packed, "forward", fails)
        patch.setattr(engine._packed.cache, "_wipe", fails)
        patch.setattr(engine._packed.cache, "clear", fails)
        async with asyncio.timeout(60):
            for _ in range(3):
                chunks = await chunks_of(engine, request(prompt(30), 10, n=2))
                for index in (0, 1):
                    assert isinstance(last_of(chunks, index).error, ModelError)
    async with asyncio.timeout(60):
        assert len(await ids_of(engine, request(prompt(30), 10))) == 10
    await until(lambda: engine.stats().running == 0)
    assert not engine._live
    assert engine._scheduler.waiting == type(engine._scheduler.waiting)()


async def test_a_last_chunk_that_fails_is_replaced_by_an_error(
    engine: SlotEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no text")

    with monkeypatch.context() as patch:
        patch.setattr("fastchat.engine.answer.Answer.last_chunk", fails)
        async with asyncio.timeout(60):
            failed = last_of(await chunks_of(engine, request(prompt(30), 3)))
    assert failed.finish_reason == "error"
    assert failed.usage is not None
    assert failed.usage.completion_tokens == 3
    async with asyncio.timeout(60):
        assert len(await ids_of(engine, request(prompt(30), 10))) == 10


async def test_a_thousand_failing_requests_leave_nothing_behind(
    engine: SlotEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(segments: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(engine._packed, "forward", fails)
        found = await asyncio.gather(
            *(chunks_of(engine, request(prompt(20, i))) for i in range(1000))
        )
    assert {type(last_of(c).error).__name__ for c in found} == {"OutOfMemoryError"}
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.cached_tokens) == (0, 0, 0)
    assert len(await ids_of(engine, request(prompt(20), 4))) == 4


async def test_a_row_without_numbers_ends_alone(
    engine: SlotEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = await ids_of(engine, request(prompt(40), 30))
    forward = engine._packed.forward

    def breaks(segments: Any) -> Any:
        logits = torch.tensor(forward(segments).tolist())
        for row, segment in enumerate(s for s in segments if s.wants_last):
            if list(segment.token_ids)[-1:] == [9]:
                logits[row] = float("nan")
        return logits

    monkeypatch.setattr(engine._packed, "forward", breaks)
    good, bad = await asyncio.gather(
        ids_of(engine, request(prompt(40), 30)), chunks_of(engine, request([4, 9]))
    )
    assert good == wanted
    assert last_of(bad).finish_reason == "error"


async def test_requests_that_cannot_be_served_are_refused_first(engine: SlotEngine) -> None:
    for asked, error in (
        (request([]), UsageError),
        (request([VOCABULARY]), UsageError),
        (request(prompt(CONTEXT)), ContextOverflowError),
        (request(prompt(10), CONTEXT), ContextOverflowError),
        (request(prompt(5), 5, n=100_000), UsageError),
        (request(prompt(5), 5, sampling=SamplingParams(temperature=float("nan"))), UsageError),
    ):
        with pytest.raises(error):
            await anext(engine.generate(asked))
    assert engine.stats().steps_total == 0
    rest = GenerationRequest(
        request_id="test", prompt=tuple(prompt(CONTEXT - 7)), sampling=GREEDY, ignore_eos=True
    )
    end = last_of(await chunks_of(engine, rest))
    assert end.usage is not None
    assert end.usage.completion_tokens == 7


async def test_stopping_drains_then_aborts_and_refuses(model_folder: Callable[[str], Path]) -> None:
    engine = await opened(model_folder("llama"))
    short = asyncio.create_task(chunks_of(engine, request(prompt(10), 3)))
    await asyncio.sleep(0)
    await engine.stop(drain_s=30.0)
    assert last_of(await short).finish_reason == "length"
    with pytest.raises(UnavailableError):
        await anext(engine.generate(request(prompt(5))))

    engine = await opened(model_folder("llama"))
    answers = engine.generate(request(prompt(10), 240))
    await anext(answers)
    await engine.stop(drain_s=0.0)
    assert last_of([chunk async for chunk in answers]).finish_reason in ("abort", "length")


async def test_the_model_is_its_own_again_after_stop(model_folder: Callable[[str], Path]) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    known = set(ALL_ATTENTION_FUNCTIONS)
    engine = await opened(model_folder("llama"))
    assert set(ALL_ATTENTION_FUNCTIONS) > known
    await engine.stop()
    assert set(ALL_ATTENTION_FUNCTIONS) == known
