"""Adapters mixed in one batch, against peft's own models one at a time."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fastchat.engine.adapted import AdaptedEngine
from fastchat.engine.adapters import AdapterBank
from fastchat.engine.base import GenerationRequest, SamplingParams
from fastchat.engine.choose import EngineSettings, open_engine
from fastchat.engine.linear import pack_linears
from fastchat.engine.packed import PackedModel
from fastchat.engine.plan import Segment
from fastchat.errors import DataError, ModelError, UnknownModelError, UsageError
from fastchat.model.adapters import base_of, read_adapter
from fastchat.model.load import ModelSettings
from tests.engine.adapters_on_disk import logits_by_peft, make_adapter
from tests.engine.conftest import CONTEXT, VOCABULARY

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "wide": {"r": 8, "lora_alpha": 4, "target_modules": ALL},
    "narrow": {
        "r": 2,
        "lora_alpha": 16,
        "use_rslora": True,
        "target_modules": ["q_proj", "o_proj"],
    },
    "head": {
        "r": 4,
        "target_modules": ["k_proj", "down_proj", "lm_head"],
        "alpha_pattern": {"k_proj": 2},
        "rank_pattern": {"down_proj": 6},
    },
}


@pytest.fixture(scope="module")
def llama(model_folder: Callable[[str], Path]) -> Path:
    return model_folder("llama")


@pytest.fixture(scope="module")
def adapters(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: make_adapter(llama, root / name, seed=i, **kind)
        for i, (name, kind) in enumerate(KINDS.items())
    }


def packed_model(
    folder: Path, *, is_packed: bool, max_rank: int = 16, dtype: torch.dtype = torch.float32
) -> tuple[Any, PackedModel]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    model.requires_grad_(False)
    if is_packed:
        assert pack_linears(model)
    packed = PackedModel(model, budget=1024, longest=CONTEXT, device=torch.device("cpu"))
    packed.adapters = AdapterBank(model, base=str(folder), max_rank=max_rank, max_adapters=8)
    return model, packed


def random_ids(n: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (n,), generator=generator).tolist()


def pass_of(packed: PackedModel, jobs: list[tuple[list[int], int | None]]) -> list[torch.Tensor]:
    """Logits (tokens, V) of whole texts in one pass, each by its own adapter."""
    segments, texts = [], []
    for ids, place in jobs:
        text = packed.cache.open(ids, 1, source=None, n_shared=0)
        assert text is not None
        texts.append(text)
        segments.append(
            Segment(region=text.region, start=0, token_ids=ids, wants_all=True, adapter=place)
        )
    logits = packed.forward(segments)
    for text in texts:
        packed.cache.close(text, keep=False)
    return list(logits.split([len(ids) for ids, _ in jobs]))


def in_torch_operations(wide: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Does without compiled code, unless `wide` is None."""
    if wide is not None:
        monkeypatch.setattr("fastchat.engine.native.library", lambda: None)
        monkeypatch.setattr("fastchat.engine.delta.WIDE", wide)


@pytest.mark.slow
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("n_idle", [0, 4])
@pytest.mark.parametrize("wide", [1, 100, None])
def test_three_adapters_and_the_base_in_one_pass_equal_separate_ones(
    llama: Path,
    adapters: dict[str, Path],
    is_packed: bool,
    n_idle: int,
    wide: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastchat.engine.linear.LEAST_WEIGHTS", {torch.float32: 1})
    monkeypatch.setattr("fastchat.engine.owned_rows.LONG", 16)  # the second text is longer
    in_torch_operations(wide, monkeypatch)
    if n_idle:  # the other way to compute: one adapter after another
        monkeypatch.setattr("fastchat.engine.owned_rows.MOST_IDLE", 0)
    _, packed = packed_model(llama, is_packed=is_packed)
    bank = packed.adapters
    assert bank is not None
    before = pass_of(packed, [(random_ids(20, 9), None)])[0]
    for i in range(n_idle):
        bank.add(f"idle-{i}", read_adapter(adapters["narrow"]))
    places = {name: bank.add(name, read_adapter(folder)) for name, folder in adapters.items()}
    texts = {name: random_ids(11 + 5 * i, i) for i, name in enumerate(places)}
    jobs = [(texts[name], place) for name, place in places.items()]
    base_ids = random_ids(20, 9)
    got = pass_of(packed, [jobs[0], (base_ids, None), *jobs[1:]])
    wanted = [logits_by_peft(llama, adapters[name], texts[name]) for name in places]
    for mine, theirs in zip([got[0], *got[2:]], wanted, strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()
        assert (mine - theirs).abs().max() < 1e-4
    # The base's rows pass through the same products, and get zeros added.
    plain = pass_of(packed, [(i, None) for i in (jobs[0][0], base_ids, jobs[1][0], jobs[2][0])])
    assert torch.equal(got[1], plain[1])
    for place in places.values():
        bank.remove(place)
    assert torch.equal(pass_of(packed, [(base_ids, None)])[0], before)


@pytest.mark.parametrize("wide", [1, 100, None])
def test_adapters_of_a_model_in_16_bits_are_mixed_as_well(
    llama: Path, adapters: dict[str, Path], wide: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_torch_operations(wide, monkeypatch)
    _, packed = packed_model(llama, is_packed=False, dtype=torch.bfloat16)
    assert packed.adapters is not None
    places = {name: packed.adapters.add(name, read_adapter(f)) for name, f in adapters.items()}
    ids = random_ids(40, 3)
    got = pass_of(packed, [(ids, None), *((ids, place) for place in places.values())])
    wanted = [logits_by_peft(llama, folder, ids) for folder in (None, *adapters.values())]
    for mine, theirs in zip(got, wanted, strict=True):
        distances = [float((mine.float() - other).square().mean()) for other in wanted]
        assert min(distances) == distances[next(i for i, w in enumerate(wanted) if w is theirs)]
        assert min(distances) < 0.01 * float(theirs.square().mean())


def test_layers_of_transposed_weights_take_adapters(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = model_folder("gpt2")
    folder = make_adapter(base, tmp_path / "a", seed=3, target_modules=["c_attn", "c_proj"])
    _, packed = packed_model(base, is_packed=False)
    assert packed.adapters is not None
    place = packed.adapters.add("a", read_adapter(folder))
    ids = random_ids(15, 1)
    wanted = logits_by_peft(base, folder, ids)
    got = pass_of(packed, [(random_ids(7, 2), None), (ids, place)])[1]
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def changed(folder: Path, target: Path, **fields: Any) -> Path:
    """A copy of an adapter with other values in its config."""
    target.mkdir()
    config = json.loads((folder / "adapter_config.json").read_text()) | fields
    (target / "adapter_config.json").write_text(json.dumps(config))
    (target / "adapter_model.safetensors").write_bytes(
        (folder / "adapter_model.safetensors").read_bytes()
    )
    return target


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "type PREFIX_TUNING"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias"),
    ],
)
def test_adapters_of_other_kinds_are_refused_by_name(
    adapters: dict[str, Path], tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        read_adapter(changed(adapters["wide"], tmp_path / "a", **fields))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"r": 0}, "the rank 0, and its weights have the rank 8"),
        ({"r": -8}, "the rank -8"),
        ({"r": True}, "the rank True"),
        ({"r": "8"}, "the rank 8"),
        ({"rank_pattern": {"q_proj": 4}}, "q_proj the rank 4"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"alpha_pattern": {"(": 8}}, "no expression"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(
    adapters: dict[str, Path], tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read_adapter(changed(adapters["wide"], tmp_path / "a", **fields))


async def test_an_adapter_whose_numbers_overflow_is_refused_and_others_go_on(
    llama: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    ids = random_ids(12, 4)
    async with opened(llama) as engine:
        for i, fields in enumerate(({"lora_alpha": 1e308}, {"lora_alpha": 1e45}, {"r": -1})):
            folder = changed(adapters["wide"], tmp_path / f"{i}", **fields)
            with pytest.raises(DataError) as refused:
                await engine.load_adapter("x", str(folder))
            assert refused.value.param == "lora_path"
            with pytest.raises(UnknownModelError):
                await answer(AdaptedEngine(engine, "x", path="x"), ids)
        # Finite, and too much for what is computed with them: nobody's loss but its own.
        await engine.load_adapter(
            "x", str(changed(adapters["wide"], tmp_path / "x", lora_alpha=1e37))
        )
        request = GenerationRequest(
            request_id="test", prompt=tuple(ids), max_tokens=8, adapter="x", ignore_eos=True
        )

        async def of_x() -> list[Any]:
            return [chunk.error async for chunk in engine.generate(request)]

        errors, got = await asyncio.gather(of_x(), answer(engine, ids))
        assert isinstance(errors[-1], ModelError)
        assert got[0] == greedy_by_peft(llama, None, ids)


def test_damaged_adapters_are_refused(adapters: dict[str, Path], tmp_path: Path) -> None:
    folder = changed(adapters["wide"], tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(DataError, match="damaged"):
        read_adapter(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(DataError, match="holds no"):
        read_adapter(folder)
    from safetensors.torch import save_file

    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    damaged = {
        "lacks one": {key.format("A"): torch.ones(4, 32)},
        "ranks of": {key.format("A"): torch.ones(4, 32), key.format("B"): torch.ones(32, 3)},
        "finite": {
            key.format("A"): torch.full((8, 32), torch.nan),
            key.format("B"): torch.ones(32, 8),
        },
        "no finite": {
            key.format("A"): torch.ones(8, 32),
            key.format("B"): torch.full((32, 8), -torch.inf),
        },
    }
    for said, tensors in damaged.items():
        save_file(tensors, folder / "adapter_model.safetensors")
        with pytest.raises(DataError, match=said):
            read_adapter(folder)
    save_file({"x.lora_embedding_A": torch.ones(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(UsageError, match="no low-rank product"):
        read_adapter(folder)


def test_the_base_of_an_adapter_may_not_be_one(adapters: dict[str, Path], tmp_path: Path) -> None:
    chained = changed(
        adapters["wide"], tmp_path / "a", base_model_name_or_path=str(adapters["narrow"])
    )
    with pytest.raises(UsageError, match="apply_lora"):
        base_of(chained)


def test_what_does_not_fit_changes_nothing(
    llama: Path, adapters: dict[str, Path], tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    _, packed = packed_model(llama, is_packed=False)
    bank = packed.adapters
    assert bank is not None
    ids = random_ids(9, 5)
    before = pass_of(packed, [(ids, None)])[0]
    other = changed(adapters["wide"], tmp_path / "o", base_model_name_or_path="org/other-7b")
    with pytest.raises(UsageError, match=r"trained on 'other-7b'") as refused:
        bank.add("o", read_adapter(other))
    assert refused.value.param == "lora_path"
    elsewhere = make_adapter(
        model_folder("gpt_neox"), tmp_path / "n", seed=1, target_modules=["query_key_value"]
    )
    renamed = changed(elsewhere, tmp_path / "r", base_model_name_or_path=str(llama))
    with pytest.raises(UsageError, match="no linear layer"):
        bank.add("n", read_adapter(renamed))
    narrow = AdapterBank(packed._model, base=str(llama), max_rank=4, max_adapters=1)
    with pytest.raises(UsageError, match="--max-lora-rank"):
        narrow.add("w", read_adapter(adapters["wide"]))
    narrow.add("n", read_adapter(adapters["narrow"]))
    with pytest.raises(UsageError, match="--max-loras"):
        narrow.add("n2", read_adapter(adapters["narrow"]))
    assert torch.equal(pass_of(packed, [(ids, None)])[0], before)


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[Any]:
    engine: Any = await open_engine(
        ModelSettings(model_path=str(folder), dtype="float32", num_threads=1, device="cpu"),
        EngineSettings(**{"max_cached_tokens": 1024, **settings}),
    )
    try:
        yield engine
    finally:
        await engine.stop()


async def answer(engine: Any, ids: list[int], n: int = 12) -> tuple[list[int], int]:
    """The ids of a greedy answer, and how many tokens of the prompt were reused."""
    request = GenerationRequest(
        request_id="test",
        prompt=tuple(ids),
        max_tokens=n,
        sampling=SamplingParams(temperature=0.0),
        ignore_eos=True,
    )
    found: list[int] = []
    cached = 0
    async for chunk in engine.generate(request):
        assert chunk.error is None
        found += chunk.token_ids
        cached = chunk.usage.cached_tokens if chunk.usage else cached
    return found, cached


def greedy_by_peft(base: Path, adapter: Path | None, ids: list[int], n: int = 12) -> list[int]:
    found: list[int] = []
    for _ in range(n):
        found.append(int(logits_by_peft(base, adapter, ids + found)[-1].argmax()))
    return found


@pytest.mark.slow
async def test_requests_of_adapters_share_steps_and_no_prefixes(
    llama: Path, adapters: dict[str, Path]
) -> None:
    ids = random_ids(40, 8)
    wanted = [greedy_by_peft(llama, a, ids) for a in (None, *adapters.values())]
    assert len({tuple(w) for w in wanted}) == 4
    async with opened(llama) as engine:
        views = [AdaptedEngine(engine, name, path=str(f)) for name, f in adapters.items()]
        for view, folder in zip(views, adapters.values(), strict=True):
            await engine.load_adapter(view.name, str(folder))
        together = await asyncio.gather(*(answer(e, ids) for e in (engine, *views)))
        assert [got for got, _ in together] == wanted
        assert [cached for _, cached in together] == [0] * 4
        again = [await answer(e, ids) for e in (engine, *views)]
        assert [got for got, _ in again] == wanted
        assert all(cached >= 32 for _, cached in again)
        embedded = [(await e.embed(["words to embed"])).vectors[0] for e in (engine, *views)]
        assert len({tuple(v) for v in embedded}) == 4


async def test_a_request_that_cannot_begin_ends_with_an_error(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("at 0x7f00")

    async with opened(llama) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(engine._scheduler, "add", broken)
            request = GenerationRequest(request_id="test", prompt=(5, 6, 7), max_tokens=3)
            chunks = [chunk async for chunk in engine.generate(request)]
        assert [chunk.finish_reason for chunk in chunks] == ["error"]
        assert "0x7f00" not in str(chunks[0].error)
        assert (await answer(engine, [5, 6, 7], 3))[0]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_the_last_rows_of_prompts_are_computed_alone(
    llama: Path, tmp_path: Path, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastchat.engine.linear.LEAST_WEIGHTS", {torch.float32: 1})
    base = with_kv_heads(llama, tmp_path / "base", kv_heads)
    folders = [
        make_adapter(base, tmp_path / f"{i}", seed=i, target_modules=ALL, r=r)
        for i, r in enumerate((3, 20))
    ]
    _, packed = packed_model(base, is_packed=True, max_rank=20)
    assert packed.adapters is not None
    places = [packed.adapters.add(f"{i}", read_adapter(f)) for i, f in enumerate(folders)]
    texts = [random_ids(n, n) for n in (40, 45, 9, 33)]
    owners = [1, None, 0, 0]
    wanted = [
        logits_by_peft(base, None if i is None else folders[i], ids)[-1]
        for i, ids in zip(owners, texts, strict=True)
    ]
    segments = []
    for i, ids in zip(owners, texts, strict=True):
        text = packed.cache.open(ids, 1, source=None, n_shared=0)
        assert text is not None
        place = None if i is None else places[i]
        segments.append(Segment(region=text.region, start=0, token_ids=ids, adapter=place))
    got = packed.forward(segments)
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def with_kv_heads(folder: Path, target: Path, n: int) -> Path:
    """A model like another, with so many heads of keys and values."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.from_pretrained(folder)
    config.num_key_value_heads = n
    torch.manual_seed(n)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(target)
    return target


@pytest.mark.slow
async def test_adapters_come_and_go_while_others_answer(
    llama: Path, adapters: dict[str, Path]
) -> None:
    ids = random_ids(20, 8)
    wanted = greedy_by_peft(llama, adapters["wide"], ids, 60)
    async with opened(llama, max_loras=2) as engine:
        await engine.load_adapter("a", str(adapters["wide"]))
        with pytest.raises(UsageError, match="loaded already"):
            await engine.load_adapter("a", str(adapters["wide"]))
        view = AdaptedEngine(engine, "a", path="a")
        running = asyncio.create_task(answer(view, ids, 60))
        while not engine.stats().running:
            await asyncio.sleep(0)
        engine.unload_adapter("a")
        with pytest.raises(UnknownModelError):
            await answer(view, ids)
        with pytest.raises(UnknownModelError):
            engine.unload_adapter("a")
        # The same name means other weights from now on; the old answer goes on with its own.
        await engine.load_adapter("a", str(adapters["narrow"]))
        assert (await answer(view, ids))[0] == greedy_by_peft(llama, adapters["narrow"], ids)
        assert (await running)[0] == wanted
        await engine.load_adapter("b", str(adapters["wide"]))
        assert (await answer(AdaptedEngine(engine, "b", path="b"), ids, 60))[0] == wanted
