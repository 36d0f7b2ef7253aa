import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastchat.engine.base import Chunk, GenerationRequest, SamplingParams
from fastchat.engine.choose import EngineSettings
from fastchat.engine.groups import GroupEngine
from fastchat.errors import ContextOverflowError, ModelError, OutOfRangeError, UnavailableError
from fastchat.families.registry import Family, registry
from fastchat.model.load import LoadedModel
from fastchat.model.prompting import from_template

VOCAB = 120


def tokenizer() -> Any:
    """One token per printable ASCII character; `<s>` and `</s>` are 0 and 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = ["<s>", "</s>", *alphabet[: VOCAB - 2]]
    raw = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


def config(name: str) -> Any:
    import transformers as t

    same = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 0}
    same |= {"eos_token_id": 1, "pad_token_id": 1}
    heads = {"num_attention_heads": 4, "max_position_embeddings": 128}
    match name:
        case "bloom":
            return t.BloomConfig(**same, n_head=4, n_layer=2)
        case "falcon":
            return t.FalconConfig(**same, **heads)
        case "falcon-alibi":
            return t.FalconConfig(**same, **heads, alibi=True)
        case "mamba":
            return t.MambaConfig(**same, state_size=8)
        case "falcon_h1":
            return t.FalconH1Config(
                **same,
                **heads,
                num_key_value_heads=2,
                intermediate_size=64,
                mamba_d_ssm=64,
                mamba_n_heads=4,
                mamba_d_head=16,
                mamba_d_state=8,
                mamba_chunk_size=8,
            )
        case "qwen3_next":
            return t.Qwen3NextConfig(
                **same,
                **heads,
                num_key_value_heads=2,
                head_dim=8,
                intermediate_size=64,
                moe_intermediate_size=16,
                shared_expert_intermediate_size=16,
                num_experts=4,
                num_experts_per_tok=2,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                linear_key_head_dim=8,
                linear_value_head_dim=8,
                layer_types=["linear_attention", "full_attention"],
            )
        case _:
            return t.LlamaConfig(**same, **heads, intermediate_size=64, num_key_value_heads=2)


NAMES = ["bloom", "falcon", "falcon-alibi", "mamba", "falcon_h1", "qwen3_next", "llama"]
QUICK = {"bloom", "mamba", "llama"}
"""A cache of keys, one of states, and the kind that slots serves too."""


def loaded_model(name: str) -> LoadedModel:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(name), dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            # Larger than usual weights, so that the best token leads by more than rounding.
            parameter.data.mul_(4.0)
    model.requires_grad_(False)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer(),
        context_len=128,
        vocab_size=VOCAB,
        family=Family(name="fallback"),
        prompting=from_template(registry().template("vicuna_v1.1")),
        device=torch.device("cpu"),
        dtype=torch.float32,
        eos_token_ids=frozenset({1}),
        stop=(),
    )


@pytest.fixture(
    scope="module",
    params=[n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return loaded_model(request.param)


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return loaded_model("llama")


class open_engine:
    """A running engine, stopped at the end."""

    def __init__(self, loaded: LoadedModel, **settings: Any) -> None:
        self._engine = GroupEngine(loaded, EngineSettings(**settings), path="test")

    async def __aenter__(self) -> GroupEngine:
        await self._engine.start()
        return self._engine

    async def __aexit__(self, *_: object) -> None:
        await self._engine.stop(drain_s=0)


GREEDY = SamplingParams(temperature=0)


def ask(prompt: Any = (5, 6, 7), **values: Any) -> GenerationRequest:
    values = {"sampling": GREEDY, "max_tokens": 12, "ignore_eos": True} | values
    return GenerationRequest(request_id="r", prompt=prompt, **values)


async def answer(engine: GroupEngine, request: GenerationRequest) -> list[list[Chunk]]:
    """The chunks of each choice."""
    choices: list[list[Chunk]] = [[] for _ in range(request.n)]
    async with asyncio.timeout(60):
        async for chunk in engine.generate(request):
            choices[chunk.index].append(chunk)
    for chunks in choices:
        assert [c.finish_reason is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
        assert chunks[-1].usage is not None
    return choices


def ids_of(chunks: list[Chunk]) -> list[int]:
    return [i for chunk in chunks for i in chunk.token_ids]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def generate(loaded: LoadedModel, prompt: tuple[int, ...], n: int = 12) -> list[int]:
    """What the model's own `generate` answers, alone."""
    import torch

    out = loaded.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=VOCAB + 1,
        pad_token_id=1,
    )
    return out[0, len(prompt) :].tolist()


PROMPTS = [(5, 6, 7), (9, 8, 7, 6, 5, 4, 3), (44, 2, 30), (11,), (7, 7, 7, 50, 51, 52, 53)]


async def test_answers_equal_generate_alone_and_in_company(loaded: LoadedModel) -> None:
    wanted = [generate(loaded, prompt) for prompt in PROMPTS]
    async with open_engine(loaded) as engine:
        alone = [ids_of((await answer(engine, ask(p)))[0]) for p in PROMPTS]
        together = await asyncio.gather(*(answer(engine, ask(p)) for p in PROMPTS))
    assert alone == wanted
    assert [ids_of(choices[0]) for choices in together] == wanted


async def test_answers_of_different_length_leave_the_group_one_by_one(
    loaded: LoadedModel,
) -> None:
    lengths = [3, 12, 1, 7, 5]
    async with open_engine(loaded) as engine:
        together = await asyncio.gather(
            *(answer(engine, ask(p, max_tokens=n)) for p, n in zip(PROMPTS, lengths, strict=True))
        )
    for prompt, n, choices in zip(PROMPTS, lengths, together, strict=True):
        assert ids_of(choices[0]) == generate(loaded, prompt)[:n]
        usage = choices[0][-1].usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), n)


async def test_the_same_seed_gives_the_same_text_whoever_shares_the_group(
    loaded: LoadedModel,
) -> None:
    seeded = ask(sampling=SamplingParams(seed=7, temperature=1.5, top_p=0.95), n=3)
    async with open_engine(loaded) as engine:
        alone = await answer(engine, seeded)
        others = [ask(p, sampling=SamplingParams()) for p in PROMPTS]
        together, *_ = await asyncio.gather(*(answer(engine, r) for r in (seeded, *others)))
    texts = [ids_of(chunks) for chunks in alone]
    assert [ids_of(chunks) for chunks in together] == texts
    assert len({tuple(ids) for ids in texts}) == 3


def test_models_with_a_state_are_never_padded() -> None:
    for name, can_pad in (("mamba", False), ("falcon_h1", False), ("bloom", True), ("llama", True)):
        engine = GroupEngine(loaded_model(name), EngineSettings(), path="test")
        engine._forward.prepare()
        assert engine._forward.can_pad is can_pad


async def test_stop_strings_end_the_text(llama: LoadedModel) -> None:
    async with open_engine(llama) as engine:
        (whole,) = await answer(engine, ask())
        text = text_of(whole)
        (cut,) = await answer(engine, ask(stop=(text[4:6],)))
    assert text_of(cut) == text[: text.index(text[4:6])]
    assert cut[-1].finish_reason == "stop"
    assert whole[-1].finish_reason == "length"


async def test_end_tokens_end_the_text_unless_ignored(llama: LoadedModel) -> None:
    async with open_engine(llama) as engine:
        (whole,) = await answer(engine, ask())
        ids = ids_of(whole)
        (cut,) = await answer(engine, ask(stop_token_ids=(ids[3],)))
    n = ids.index(ids[3])
    assert ids_of(cut) == ids[: n + 1]
    assert text_of(cut) == text_of(whole)[:n]
    assert cut[-1].finish_reason == "stop"


async def test_log_probabilities_are_those_of_the_plain_forward(loaded: LoadedModel) -> None:
    import torch

    prompt = (9, 8, 7, 6)
    request = ask(prompt, max_tokens=4, logprobs=3, echo=True)
    async with open_engine(loaded) as engine:
        chunks, other = await asyncio.gather(
            answer(engine, request), answer(engine, ask(PROMPTS[1]))
        )
    assert ids_of(other[0]) == generate(loaded, PROMPTS[1])
    tokens = [token for chunk in chunks[0] for token in chunk.logprobs]
    ids = torch.tensor([[*prompt, *ids_of(chunks[0])]])
    wanted = loaded.model(ids).logits[0].log_softmax(-1)
    assert [t.token_id for t in tokens] == ids[0].tolist()
    assert tokens[0].logprob is None
    for i, token in enumerate(tokens[1:]):
        assert token.logprob == pytest.approx(wanted[i, token.token_id].item(), abs=2e-3)
        assert [t[1] for t in token.top][:1] == wanted[i].topk(1).indices.tolist()
        assert len(token.top) == 3
    assert text_of(chunks[0]).startswith(llama_text(loaded, prompt))


def llama_text(loaded: LoadedModel, ids: tuple[int, ...]) -> str:
    return loaded.tokenizer.decode(list(ids))


async def test_a_prompt_is_scored_without_an_answer(llama: LoadedModel) -> None:
    async with open_engine(llama) as engine:
        (chunks,) = await answer(engine, ask(max_tokens=0, echo=True, logprobs=0))
    assert [t.token_id for c in chunks for t in c.logprobs] == [5, 6, 7]
    assert ids_of(chunks) == [] and chunks[-1].finish_reason == "length"


async def test_closing_the_iterator_frees_the_row(llama: LoadedModel) -> None:
    async with open_engine(llama) as engine:
        stream: AsyncIterator[Chunk] = engine.generate(ask(max_tokens=120))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while engine.stats().running:
                await asyncio.sleep(0.001)
        assert engine._sampler._rows == {}
        assert (await answer(engine, ask()))[0][-1].finish_reason == "length"


async def test_a_waiting_request_that_is_closed_never_runs(llama: LoadedModel) -> None:
    async with open_engine(llama, max_running=1) as engine:
        first = asyncio.create_task(answer(engine, ask(max_tokens=100)))
        while not engine.stats().running:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(answer(engine, ask()))
        while not engine.stats().waiting:
            await asyncio.sleep(0.001)
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert engine.stats().waiting == 0
        assert first.result()[0][-1].finish_reason == "length"


async def test_stopping_ends_every_request_with_a_last_chunk(llama: LoadedModel) -> None:
    engine = GroupEngine(llama, EngineSettings(max_running=1), path="test")
    await engine.start()
    tasks = [asyncio.create_task(answer(engine, ask(max_tokens=120, n=2))) for _ in range(3)]
    while not engine.stats().running:
        await asyncio.sleep(0.001)
    await engine.stop(drain_s=0)
    reasons = [c[-1].finish_reason for choices in await asyncio.gather(*tasks) for c in choices]
    assert "abort" in reasons and set(reasons) <= {"abort", "length"}
    with pytest.raises(UnavailableError):
        await answer(engine, ask())


async def test_a_failed_step_ends_its_requests_and_no_others(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_engine(llama, max_running=1) as engine:
        real, calls = engine._forward.decode, []

        def fails_once(*args: Any) -> Any:
            calls.append(args)
            if len(calls) == 3:
                raise RuntimeError("/secret/path: the library broke")
            return real(*args)

        monkeypatch.setattr(engine._forward, "decode", fails_once)
        first, second = await asyncio.gather(answer(engine, ask()), answer(engine, ask()))
    assert first[0][-1].finish_reason == "error"
    assert isinstance(first[0][-1].error, ModelError)
    assert "secret" not in str(first[0][-1].error)
    assert ids_of(second[0]) == generate(llama, (5, 6, 7))


@pytest.mark.slow
async def test_a_group_keeps_to_the_budget_of_tokens(llama: LoadedModel) -> None:
    async with open_engine(llama, max_cached_tokens=128) as engine:
        peak = 0
        tasks = [asyncio.create_task(answer(engine, ask(max_tokens=40, n=2))) for _ in range(4)]
        while not all(task.done() for task in tasks):
            peak = max(peak, engine.stats().cached_tokens)
            await asyncio.sleep(0)
        assert all(ids_of(c) == ids_of(tasks[0].result()[0]) for t in tasks for c in t.result())
        assert 0 < peak <= 128


async def test_bad_requests_are_refused_before_they_wait(llama: LoadedModel) -> None:
    async with open_engine(llama) as engine:
        for request, error in (
            (ask((5, VOCAB)), OutOfRangeError),
            (ask((5,) * 200), ContextOverflowError),
            (ask(sampling=SamplingParams(temperature=float("nan"))), OutOfRangeError),
            (ask(n=0), OutOfRangeError),
        ):
            with pytest.raises(error):
                await answer(engine, request)
        assert engine.stats().waiting == 0
