"""The slot engine against the library's own `generate`, for every architecture it serves."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastchat.engine.base import Engine, GenerationRequest, SamplingParams
from fastchat.engine.choose import EngineSettings, open_engine
from fastchat.model.load import ModelSettings
from tests.engine.conftest import CONTEXT, GROUPS, SLOTS, VOCABULARY

PROMPTS = (3, 60, 17, 41, 90, 1)
ANSWERS = (30, 12, 25, 20, 8, 40)


def prompts_of(lengths: tuple[int, ...]) -> list[list[int]]:
    import torch

    generator = torch.Generator().manual_seed(3)
    draw = [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
    # Two that begin alike, so that a prefix is shared while the first is still being computed.
    draw[4][:40] = draw[1][:40]
    return draw


def reference(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy answers, each prompt alone."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    found = []
    for prompt, n in zip(prompts, ANSWERS, strict=True):
        config = GenerationConfig(
            max_new_tokens=n, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, generation_config=config)
        found.append(out[0, len(prompt) :].tolist())
    return found


async def answer(engine: Engine, prompt: list[int], n: int) -> list[int]:
    request = GenerationRequest(
        request_id="test",
        prompt=tuple(prompt),
        max_tokens=n,
        sampling=SamplingParams(temperature=0.0),
        ignore_eos=True,
    )
    ids: list[int] = []
    async for chunk in engine.generate(request):
        assert chunk.error is None
        ids += chunk.token_ids
    return ids


QUICK = ("llama", "gemma2", "gpt_oss")
"""Together they use every path of the attention function."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "way"),
    [
        *((a, "as installed") for a in SLOTS),
        *((a, way) for a in QUICK for way in ("filled", "without compiled code")),
    ],
)
async def test_answers_equal_generate_alone_and_in_company(
    architecture: str,
    way: str,
    model_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if way == "without compiled code":
        monkeypatch.setattr("fastchat.engine.native.library", lambda: None)
    if way == "filled":  # layers as small as these are packed too, and steps filled up
        monkeypatch.setattr("fastchat.engine.linear.LEAST_WEIGHTS", {torch.float32: 1})
    folder = model_folder(architecture)
    prompts = prompts_of(PROMPTS)
    wanted = reference(folder, prompts)
    # Room for three at a time, 24 tokens a step, and a cache that all of them do not fit:
    # requests join and leave, prompts come in pieces, sequences give way and come back.
    settings = EngineSettings(max_running=3, max_step_tokens=24, max_cached_tokens=CONTEXT)
    engine = await open_engine(
        ModelSettings(model_path=str(folder), dtype="float32", num_threads=1, device="cpu"),
        settings,
    )
    try:
        assert engine.info.scheduler == "slots"
        together = await asyncio.gather(
            *(answer(engine, p, n) for p, n in zip(prompts, ANSWERS, strict=True))
        )
        assert list(together) == wanted
        alone = [await answer(engine, p, n) for p, n in zip(prompts, ANSWERS, strict=True)]
        assert alone == wanted
        again = [await answer(engine, prompts[4], ANSWERS[4]) for _ in range(2)]
        assert again == [wanted[4]] * 2
        stats = engine.stats()
        assert (stats.running, stats.waiting) == (0, 0)
        assert stats.prefix_hit_tokens_total > 0
        assert stats.cached_tokens <= stats.cache_budget == CONTEXT
    finally:
        await engine.stop()


@pytest.mark.parametrize("architecture", GROUPS)
def test_the_check_leaves_other_models_to_groups(architecture: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from fastchat.engine.check import check
    from fastchat.engine.packed import PackedModel, UnsupportedModelError
    from tests.engine.conftest import config_of

    model: Any = AutoModelForCausalLM.from_config(config_of(architecture)).eval()
    before = model.config._attn_implementation
    with pytest.raises(UnsupportedModelError):
        packed = PackedModel(model, budget=512, longest=CONTEXT, device=torch.device("cpu"))
        check(packed, model, VOCABULARY)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_long_neighbour_changes_no_rotary_frequency(kind: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from fastchat.engine.packed import PackedModel
    from fastchat.engine.plan import Segment
    from tests.engine.conftest import config_of

    config = config_of("phi3")
    config.max_position_embeddings = config.original_max_position_embeddings = 64
    config.rope_parameters = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    if kind == "longrope":
        config.rope_parameters |= {
            "short_factor": [1.0] * 4,
            "long_factor": [2.0, 3.0, 4.0, 5.0],
            "original_max_position_embeddings": 64,
        }
    torch.manual_seed(5)
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    packed = PackedModel(model, budget=1024, longest=CONTEXT, device=torch.device("cpu"))
    short, long = prompts_of((20, 200, 1, 1, 90, 1))[:2]

    def logits(*texts: list[int]) -> torch.Tensor:
        opened = [packed.cache.open(t, 1, source=None, n_shared=0) for t in texts]
        segments = [Segment(region=o.region, start=0, token_ids=o.tokens) for o in opened if o]
        found = packed.forward(segments)
        for text in opened:
            assert text is not None
            packed.cache.close(text, keep=False)
        return found

    alone = logits(short)[0]
    assert torch.equal(logits(long)[0].isfinite(), torch.ones(VOCABULARY, dtype=torch.bool))
    torch.testing.assert_close(logits(short)[0], alone)
    torch.testing.assert_close(logits(short, long)[0], alone, rtol=1e-4, atol=1e-4)
    packed.close()
