"""Pictures in the slot engine against the library's own `generate`, and what tells them apart."""

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fastchat.engine.adapted import AdaptedEngine
from fastchat.engine.base import GenerationRequest, SamplingParams
from fastchat.engine.choose import EngineSettings, open_engine
from fastchat.engine.kv_cache import KVCache, LayerShape
from fastchat.engine.scheduler import Scheduler, Sequence
from fastchat.errors import ContextOverflowError, UsageError
from fastchat.message import Message
from fastchat.model.hub import Source
from fastchat.model.load import ModelSettings
from fastchat.model.processors import load_processor
from tests.engine.adapters_on_disk import make_adapter
from tests.engine.seeing_models import (
    data_url,
    make_gemma3,
    make_idefics3,
    make_internvl,
    make_llava,
    make_qwen,
    picture,
)

KINDS: dict[str, Callable[[Path], Path]] = {
    "llava": make_llava,
    "idefics3": make_idefics3,
    "gemma3": make_gemma3,
    "internvl": make_internvl,
    "qwen2_vl": make_qwen,
    "qwen2_5_vl": lambda folder: make_qwen(folder, "qwen2_5_vl"),
}
MARKS = {
    "llava": "<image>",
    "idefics3": "<image>",
    "gemma3": "<boi>",
    "internvl": "<IMG_CONTEXT>",
    "qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
}
N = 12


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = KINDS[kind](tmp_path_factory.mktemp(kind))
        return made[kind]

    return make


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[Any]:
    engine: Any = await open_engine(
        ModelSettings(model_path=str(folder), dtype="float32", num_threads=1, device="cpu"),
        EngineSettings(**{"max_cached_tokens": 2048, **settings}),
    )
    try:
        yield engine
    finally:
        await engine.stop()


class Library:
    """transformers' own way."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoConfig, AutoModelForImageTextToText

        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()
        self.model.generation_config.eos_token_id = None
        config = AutoConfig.from_pretrained(folder)
        self.processor = load_processor(Source(path=str(folder)), config)

    def answer(self, text: str, images: list[Any], n: int = N) -> list[int]:
        from transformers import GenerationConfig

        assert self.processor is not None
        # The tokenizer adds the mark of the beginning, which the text has already.
        text = text.removeprefix("<s>")
        if images:
            inputs = self.processor.whole(text, images)
        else:
            inputs = {
                "input_ids": torch.tensor([self.processor._library.tokenizer(text).input_ids])
            }
        config = GenerationConfig(max_new_tokens=n, do_sample=False, pad_token_id=0)
        with torch.inference_mode():
            out = self.model.generate(**inputs, generation_config=config)
        return out[0, inputs["input_ids"].shape[1] :].tolist()


async def answer(
    engine: Any, *messages: Message, n: int = N, **fields: Any
) -> tuple[list[int], int]:
    """The ids of a greedy answer, and how many tokens of the prompt were reused."""
    request = GenerationRequest(
        request_id="test",
        messages=messages,
        max_tokens=n,
        sampling=SamplingParams(temperature=0.0),
        ignore_eos=True,
        **fields,
    )
    found: list[int] = []
    cached = 0
    async for chunk in engine.generate(request):
        assert chunk.error is None
        found += chunk.token_ids
        cached = chunk.usage.cached_tokens if chunk.usage else cached
    return found, cached


def said(*parts: str | Any) -> Message:
    """A message of texts and pictures."""
    texts = [part for part in parts if isinstance(part, str)]
    images = [part for part in parts if not isinstance(part, str)]
    order = [part if isinstance(part, str) else images.index(part) for part in parts]
    urls = tuple(data_url(image) for image in images)
    return Message(role="user", text="\n".join(texts), images=urls, parts=tuple(order))


def prompt(kind: str, *parts: str | Any) -> str:
    """What the model's template makes of one such message."""
    pieces = [part if isinstance(part, str) else MARKS[kind] for part in parts]
    between = "\n" if kind in ("llava", "idefics3") else ""
    return f"<s>user: {between.join(pieces)}\nassistant:"


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [k if k == "llava" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS]
)
async def test_answers_equal_generate_alone_and_in_company(
    kind: str, folder_of: Callable[[str], Path]
) -> None:
    folder = folder_of(kind)
    one, two, three = picture(64, 48, 1), picture(30, 90, 2), picture(64, 48, 3)
    conversations: list[tuple[Any, ...]] = [
        (one, "what is this?"),
        (three, "what is this?"),
        ("first", one, "then", two, "and last"),
        ("no picture at all",),
        (two, two),
    ]
    library = Library(folder)
    wanted = [
        library.answer(prompt(kind, *parts), [p for p in parts if not isinstance(p, str)])
        for parts in conversations
    ]
    assert len({tuple(ids) for ids in wanted}) == len(wanted)
    # Steps so short that pictures come in pieces, and too little room for all at once.
    async with opened(folder, max_step_tokens=16, max_running=3, max_cached_tokens=256) as engine:
        assert "vision" in engine.info.abilities
        assert engine._loaded.processor.is_seen_whole == (kind == "gemma3")
        together = await asyncio.gather(*(answer(engine, said(*c)) for c in conversations))
        assert [ids for ids, _ in together] == wanted
    async with opened(folder) as engine:
        alone = [await answer(engine, said(*c)) for c in conversations]
        assert [ids for ids, _ in alone] == wanted
        again = [await answer(engine, said(*c)) for c in conversations]
        assert [ids for ids, _ in again] == wanted
        assert all(cached >= 16 for _, cached in again)


async def test_prefixes_end_where_another_picture_begins(folder_of: Callable[[str], Path]) -> None:
    async with opened(folder_of("llava")) as engine:
        long = "words that stand before the picture and are many"
        first, cached = await answer(engine, said(long, picture(28, 28, 1), "?"))
        assert cached == 0
        other, cached = await answer(engine, said(long, picture(28, 28, 2), "?"))
        # As far as the text goes, and not a token of the picture.
        assert cached <= len(f"<s>user: {long}\n") - 2
        assert cached >= 32
        assert other != first
        same, cached = await answer(engine, said(long, picture(28, 28, 1), "?"))
        assert same == first
        assert cached > len(f"<s>user: {long}\n") + 16


async def test_a_picture_is_seen_once(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fastchat.engine.vision as vision

    n_seen = 0
    real = vision.image_features

    def counted(*arguments: Any) -> Any:
        nonlocal n_seen
        n_seen += 1
        return real(*arguments)

    async with opened(folder_of("qwen2_vl")) as engine:
        monkeypatch.setattr(vision, "image_features", counted)
        one, two = picture(40, 40, 1), picture(40, 40, 2)
        first, _ = await answer(engine, said(one, "hi"))
        reply = Message(role="assistant", text="a picture")
        await answer(engine, said(one, "hi"), reply, said(two, "and this?"), n=4)
        await answer(engine, said(one, "hi"), n=4)
        assert n_seen == 2
        monkeypatch.setattr(vision, "KEPT_TOKENS", 1)
        await answer(engine, said(two, "hi"), n=4)
        assert (await answer(engine, said(one, "hi")))[0] == first
        assert n_seen == 3


@pytest.mark.slow
async def test_adapters_change_the_text_part_of_a_model_that_sees(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    from peft import PeftModel

    folder = folder_of("llava")
    adapter = make_adapter(
        folder,
        tmp_path / "adapter",
        seed=4,
        target_modules=r".*language_model.*\.(q_proj|down_proj)",
    )
    seen = picture(28, 28, 5)
    library = Library(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own
        library.model = PeftModel.from_pretrained(library.model, str(adapter)).eval()
    wanted = library.answer(prompt("llava", seen, "?"), [seen])
    async with opened(folder) as engine:
        plain, _ = await answer(engine, said(seen, "?"))
        await engine.load_adapter("a", str(adapter))
        view = AdaptedEngine(engine, "a", path="a")
        both = await asyncio.gather(*(answer(e, said(seen, "?")) for e in (engine, view)))
        assert [ids for ids, _ in both] == [plain, wanted]
        assert plain != wanted
        tower = make_adapter(
            folder, tmp_path / "tower", seed=4, target_modules=r".*vision_tower.*\.q_proj"
        )
        with pytest.raises(UsageError, match="text part"):
            await engine.load_adapter("t", str(tower))


async def test_what_cannot_be_placed_is_refused(folder_of: Callable[[str], Path]) -> None:
    async with opened(folder_of("llava")) as engine:
        seen = picture(28, 28, 1)
        cases: list[tuple[Message, type[UsageError], str]] = [
            (said(seen, "is <image> here"), UsageError, "stands for pictures"),
            (
                Message(role="user", text="", images=("data:image/png;base64,AAAA",)),
                UsageError,
                "is none of",
            ),
            (said(*[seen] * 33), UsageError, "33 pictures"),
            (said(*[seen] * 32), ContextOverflowError, "context"),
        ]
        for message, kind, words in cases:
            with pytest.raises(kind, match=words) as refused:
                await answer(engine, message, truncate_prompt=True)
            assert refused.value.param == "messages"
        # A text that only looks like a mark is a text, and nothing was left behind.
        assert (await answer(engine, said("is <image> here")))[0]
        assert engine.stats().running == 0


async def test_a_failing_tower_ends_one_request_only(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastchat.errors import ModelError

    def broken(*_: Any) -> Any:
        raise RuntimeError("address 0x7f00")

    async with opened(folder_of("llava")) as engine:
        monkeypatch.setattr("fastchat.engine.vision.image_features", broken)
        with pytest.raises(ModelError) as failed:
            await answer(engine, said(picture(28, 28, 9), "?"))
        assert "0x7f00" not in failed.value.message
        assert (await answer(engine, said("hello")))[0]


async def test_a_model_that_computes_pictures_otherwise_serves_text_only(
    folder_of: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import fastchat.engine.vision as vision

    real = vision.image_features
    monkeypatch.setattr(vision, "image_features", lambda *a: real(*a) * 1.1)
    with caplog.at_level(logging.WARNING):
        async with opened(folder_of("llava")) as engine:
            assert "vision" not in engine.info.abilities
            assert (await answer(engine, said("hello")))[0]
            with pytest.raises(UsageError, match="does not take images"):
                await answer(engine, said(picture(28, 28, 1), "?"))
    assert "pictures are refused" in caplog.text


def test_a_picture_that_is_seen_whole_is_never_cut() -> None:
    sequence = Sequence("a", list(range(50)), answers_at_most=4, blocks=((0, 3), (5, 30), (30, 40)))
    assert [sequence.whole(n) for n in (3, 4, 5, 6, 29, 30, 31, 40, 45)] == [
        *(3, 4, 5, 5, 5, 30, 30, 40, 45)
    ]
    assert sequence.whole(2, least=-1) == 0
    shape = LayerShape(
        kv_heads=1, key_dim=2, value_dim=2, dtype=torch.float32, device=torch.device("cpu")
    )
    scheduler = Scheduler(
        KVCache({0: shape}, budget=256, longest=128), max_running=2, max_step_tokens=16
    )
    scheduler.add(sequence)
    pieces: list[tuple[int, int]] = []
    while sequence.cached is None or sequence.n_missing:
        work = scheduler.plan()
        pieces += [(item.start, item.start + item.n_tokens) for item in work]
        scheduler.advance(work)
    # More than a step's tokens only where a picture alone has more.
    assert pieces == [(0, 5), (5, 30), (30, 46), (46, 50)]
    scheduler.remove(sequence)
    # Half a picture of another text is no use to one that looks at all of it.
    other = Sequence("b", [*range(20), 99, *range(21, 50)], answers_at_most=4, blocks=((5, 30),))
    scheduler.add(other)
    (work,) = scheduler.plan()
    assert (work.start, work.n_tokens) == (5, 25)


@pytest.mark.slow
async def test_pictures_that_are_seen_whole_are_reused_and_told_apart(
    folder_of: Callable[[str], Path],
) -> None:
    folder = folder_of("gemma3")
    library = Library(folder)
    one, two = picture(50, 50, 1), picture(50, 50, 2)
    long = "words that stand before the picture and are many"
    conversations = [(long, one, "?"), (long, two, "?"), (long, one, two, "?"), (long, one, "!")]
    async with opened(folder, max_step_tokens=16) as engine:
        for parts in conversations:
            wanted = library.answer(
                prompt("gemma3", *parts), [p for p in parts if not isinstance(p, str)]
            )
            assert (await answer(engine, said(*parts)))[0] == wanted
        found = await asyncio.gather(*(answer(engine, said(*c)) for c in conversations))
        assert all(cached >= len(f"<s>user: {long}") for _, cached in found)
