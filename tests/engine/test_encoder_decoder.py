"""T5 as an engine: transformers' own generation is what it must equal."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastchat.engine.base import Chunk, Engine, GenerationRequest, SamplingParams
from fastchat.engine.choose import EngineSettings, open_engine
from fastchat.errors import ContextOverflowError, UsageError
from fastchat.message import Message
from fastchat.model.load import ModelSettings
from tests.engine.conftest import make_tokenizer

CONTEXT = 256
EOS = 2
GREEDY = SamplingParams(temperature=0.0)
PROMPTS = ((5, 6, 7, EOS), tuple(range(20, 61)), (9,), tuple(range(100, 118)))


def config_of(kind: str) -> Any:
    import transformers as t

    same: dict[str, Any] = {
        "vocab_size": 280,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": EOS,
        "initializer_factor": 3.0,
        # Few, so that prompts of these lengths reach the last of them.
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
    }
    gated = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    match kind:
        case "mt5":
            return t.MT5Config(**same, **gated)
        case "umt5":
            return t.UMT5Config(**same, **gated)
        case _:
            return t.T5Config(**same)


@pytest.fixture(
    scope="module",
    params=["t5", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("mt5", "umt5"))],
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoModelForSeq2SeqLM

    torch.manual_seed(3)
    model = AutoModelForSeq2SeqLM.from_config(config_of(request.param)).eval()
    path = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(path)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[Engine]:
    opened = await open_engine(settings_of(folder), EngineSettings())
    yield opened
    await opened.stop(drain_s=0)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


def settings_of(folder: Path) -> ModelSettings:
    return ModelSettings(
        model_path=str(folder),
        dtype="float32",
        num_threads=1,
        device="cpu",
        context_len=CONTEXT,
        conv_template="zero_shot",
    )


def generated(model: Any, ids: Sequence[int], n: int, **how: Any) -> list[int]:
    """What transformers writes after the decoder's start."""
    import torch

    made = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=n,
        do_sample=False,
        **how,
    )
    return made[0, 1:].tolist()


async def collected(engine: Engine, **given: Any) -> list[Chunk]:
    given = {"request_id": "x", "sampling": GREEDY, "max_tokens": 12, **given}
    return [chunk async for chunk in engine.generate(GenerationRequest(**given))]


def ids_of(chunks: Sequence[Chunk], index: int = 0) -> list[int]:
    return [i for chunk in chunks if chunk.index == index for i in chunk.token_ids]


def text_of(chunks: Sequence[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.slow
async def test_greedy_answers_of_a_batch_are_those_of_transformers(
    engine: Engine, model: Any
) -> None:
    answers = await asyncio.gather(*(collected(engine, prompt=prompt) for prompt in PROMPTS))
    for prompt, chunks in zip(PROMPTS, answers, strict=True):
        wanted = generated(model, prompt, 12)
        assert ids_of(chunks) == wanted
        assert chunks[-1].finish_reason == ("stop" if EOS in wanted else "length")
        assert chunks[-1].usage and chunks[-1].usage.prompt_tokens == len(prompt)
    assert engine.info.scheduler == "groups" and "generate" in engine.info.abilities


async def test_the_penalty_counts_what_the_encoder_read(engine: Engine, model: Any) -> None:
    import torch

    prompt, penalty = PROMPTS[1], 1.3
    given = SamplingParams(temperature=0.0, repetition_penalty=penalty)
    chunks = await collected(engine, prompt=prompt, sampling=given, ignore_eos=True)
    written = [0]
    for token in ids_of(chunks):
        with torch.no_grad():
            scores = model(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([written])
            ).logits[0, -1]
        seen = list({*prompt, *written[1:]})
        old = scores[seen]
        scores[seen] = torch.where(old < 0, old * penalty, old / penalty)
        assert token == int(scores.argmax())
        written.append(token)


async def test_a_seed_gives_the_same_answers_alone_and_in_company(engine: Engine) -> None:
    seeded = SamplingParams(temperature=2.0, top_p=0.99, seed=11)
    alone = await collected(engine, prompt=PROMPTS[0], sampling=seeded, n=2)
    together, _ = await asyncio.gather(
        collected(engine, prompt=PROMPTS[0], sampling=seeded, n=2),
        collected(engine, prompt=PROMPTS[1], sampling=SamplingParams()),
    )
    assert [ids_of(alone, i) for i in (0, 1)] == [ids_of(together, i) for i in (0, 1)]
    assert ids_of(alone, 0) != ids_of(alone, 1)


async def test_log_probabilities_are_those_of_one_plain_pass(engine: Engine, model: Any) -> None:
    import torch

    prompt = PROMPTS[3]
    chunks = await collected(engine, prompt=prompt, logprobs=2, ignore_eos=True)
    found = [one for chunk in chunks for one in chunk.logprobs]
    ids = ids_of(chunks)
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0, *ids[:-1]]])
        ).logits[0]
    wanted = logits.log_softmax(-1)
    assert [one.token_id for one in found] == ids
    for row, one in zip(wanted, found, strict=True):
        assert one.logprob == pytest.approx(float(row[one.token_id]), abs=1e-4)
        assert [i for _, i, _ in one.top] == row.topk(2).indices.tolist()


async def test_a_stop_string_ends_the_text_before_it(engine: Engine) -> None:
    how: dict[str, Any] = {
        "prompt": PROMPTS[0],
        "ignore_eos": True,
        "max_tokens": 40,
        "sampling": SamplingParams(temperature=2.0, seed=1),
    }
    whole = text_of(await collected(engine, **how))
    stop = whole[8:10]
    chunks = await collected(engine, **how, stop=(stop,))
    assert text_of(chunks) == whole[: whole.index(stop)]
    assert chunks[-1].finish_reason == "stop" and len(chunks) > 1


@pytest.mark.slow
async def test_prompt_and_answer_have_the_whole_context_each(engine: Engine, model: Any) -> None:
    full = tuple(3 + i % 200 for i in range(CONTEXT))
    chunks = await collected(engine, prompt=full, max_tokens=CONTEXT, ignore_eos=True)
    assert len(ids_of(chunks)) == CONTEXT
    with pytest.raises(ContextOverflowError, match=f"writes {CONTEXT} at most"):
        await collected(engine, prompt=full, max_tokens=CONTEXT + 1)
    with pytest.raises(ContextOverflowError, match=f"reads {CONTEXT} at most"):
        await collected(engine, prompt=(7, *full))
    cut = await collected(engine, prompt=(7, 8, *full), truncate_prompt=True)
    assert ids_of(cut) == generated(model, full, 12)


async def test_probabilities_of_what_an_encoder_reads_are_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="reads its prompt with an encoder"):
        await collected(engine, prompt=PROMPTS[0], echo=True, logprobs=0)
    echoed = await collected(engine, prompt="ab", echo=True, max_tokens=0)
    assert text_of(echoed) == "ab"


async def test_what_the_encoder_reads_ends_with_the_end_token(engine: Engine, model: Any) -> None:
    messages = (Message(role="user", text="Hello"),)
    ids = engine.tokenize(engine.render(messages))
    assert ids[-1] == EOS and ids.count(EOS) == 1
    chunks = await collected(engine, messages=messages)
    assert chunks[-1].usage and chunks[-1].usage.prompt_tokens == len(ids)
    assert ids_of(chunks) == generated(model, ids, 12)
    assert engine.tokenize("ab", add_special_tokens=False)[-1] != EOS


async def test_embeddings_are_the_means_of_the_encoders_states(engine: Engine, model: Any) -> None:
    import torch

    found = await engine.embed([PROMPTS[0], PROMPTS[1]])
    for prompt, vector in zip(PROMPTS, np.asarray(found.vectors), strict=False):
        with torch.no_grad():
            states = model.get_encoder()(input_ids=torch.tensor([prompt]))[0][0].mean(0)
        assert vector == pytest.approx((states / states.norm()).numpy(), abs=1e-5)


async def test_slots_are_refused_by_name(folder: Path) -> None:
    with pytest.raises(UsageError, match="--scheduler slots"):
        await open_engine(settings_of(folder), EngineSettings(scheduler="slots"))
