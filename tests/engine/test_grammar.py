import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from schemas import SCHEMAS, Code, Palette, Person

from fastchat.engine.base import Chunk, Engine, GenerationRequest, Grammar, SamplingParams
from fastchat.engine.choose import EngineSettings, open_engine
from fastchat.engine.grammar import Grammars, apply_masks, forbidden_on_device
from fastchat.errors import UsageError
from fastchat.model.load import ModelSettings
from tests.engine.conftest import config_of, make_tokenizer
from tests.engine.test_detokenize import sentencepiece_like

ENDLESS = json.dumps({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}})
"""A schema of nothing but itself."""

SAMPLED = SamplingParams(seed=3)
SHAPED = SamplingParams(
    temperature=1.3, top_p=0.95, top_k=200, repetition_penalty=1.2, presence_penalty=0.5, seed=5
)


async def opened(folder: Path, scheduler: Literal["slots", "groups"]) -> Engine:
    return await open_engine(
        ModelSettings(model_path=str(folder), dtype="float32", num_threads=1, device="cpu"),
        EngineSettings(max_cached_tokens=8192, scheduler=scheduler),
    )


@pytest.fixture(params=["slots", "groups"])
async def engine(
    request: pytest.FixtureRequest, model_folder: Callable[[str], Path]
) -> AsyncIterator[Engine]:
    running = await opened(model_folder("llama"), request.param)
    yield running
    await running.stop(0.0)


def schema(model: Any) -> Grammar:
    source = json.dumps(model.model_json_schema())
    return Grammar(kind="json_schema", source=source, param="response_format")


def regex(pattern: str, **values: Any) -> Grammar:
    return Grammar(kind="regex", source=pattern, param="guided_regex", **values)


def asked(grammar: Grammar | None, **values: Any) -> GenerationRequest:
    values = {"max_tokens": 200, "sampling": SAMPLED, **values}
    return GenerationRequest(request_id="t", prompt="Write.", grammar=grammar, **values)


async def answers(engine: Engine, wanted: GenerationRequest) -> dict[int, tuple[str, str]]:
    """Text and finish reason by choice."""
    texts: dict[int, list[str]] = {}
    reasons: dict[int, str] = {}
    async for chunk in engine.generate(wanted):
        assert chunk.error is None, chunk.error
        texts.setdefault(chunk.index, []).append(chunk.text)
        if chunk.finish_reason:
            reasons[chunk.index] = chunk.finish_reason
    return {i: ("".join(parts), reasons[i]) for i, parts in texts.items()}


async def answer(engine: Engine, wanted: GenerationRequest) -> tuple[str, str]:
    return (await answers(engine, wanted))[0]


@pytest.mark.slow
async def test_random_weights_write_what_each_schema_demands(engine: Engine) -> None:
    for model in SCHEMAS:
        text, reason = await answer(engine, asked(schema(model)))
        assert reason == "stop", (model, text)
        model.model_validate_json(text)


async def test_a_regular_expression_is_matched_whole(engine: Engine) -> None:
    text, reason = await answer(engine, asked(regex(r"[a-f]{3}-[0-9]{2,4}!")))
    assert re.fullmatch(r"[a-f]{3}-[0-9]{2,4}!", text)
    assert reason == "stop"


async def test_one_of_the_choices_is_given(engine: Engine) -> None:
    choices = ["yes", "no", 'say "maybe"', "für später"]
    grammar = Grammar(kind="choice", source=json.dumps(choices), param="guided_choice")
    found = await answers(engine, asked(grammar, n=8))
    assert {text for text, _ in found.values()} <= set(choices)
    assert {reason for _, reason in found.values()} == {"stop"}
    assert len({text for text, _ in found.values()}) > 1


async def test_a_lark_grammar_is_followed(engine: Engine) -> None:
    grammar = Grammar(kind="lark", source='start: "(" start ")" | "x"', param="guided_grammar")
    text, _ = await answer(engine, asked(grammar, sampling=replace(SAMPLED, logit_bias={93: 5.0})))
    assert re.fullmatch(r"\(*x\)*", text) and text.count("(") == text.count(")")


async def test_a_limit_cuts_the_answer_and_says_so(engine: Engine) -> None:
    text, reason = await answer(engine, asked(schema(Person), max_tokens=4))
    assert reason == "length"
    assert text.startswith("{")


async def test_rows_with_and_without_a_grammar_share_a_batch(engine: Engine) -> None:
    alone = await answer(engine, asked(None, max_tokens=30, ignore_eos=True))
    held = asked(regex("[0-9]{30}"), sampling=replace(SAMPLED, temperature=0.0))
    greedy = asked(None, max_tokens=30, ignore_eos=True, sampling=SamplingParams(temperature=0.0))
    plain = await answer(engine, greedy)
    together = await asyncio.gather(
        answer(engine, asked(None, max_tokens=30, ignore_eos=True)),
        answer(engine, held),
        answer(engine, greedy),
    )
    assert together[0] == alone
    assert re.fullmatch("[0-9]{30}", together[1][0])
    assert together[2] == plain


async def test_seeds_penalties_and_cuts_work_under_a_grammar(engine: Engine) -> None:
    wanted = asked(schema(Person), sampling=SHAPED, n=3, logprobs=2)
    first, again = await answers(engine, wanted), await answers(engine, wanted)
    assert first == again
    for text, _ in first.values():
        Person.model_validate_json(text)


async def test_log_probabilities_are_of_the_tokens_that_were_drawn(engine: Engine) -> None:
    chunks: list[Chunk] = [c async for c in engine.generate(asked(regex("[0-9]{5}"), logprobs=1))]
    spelled = "".join(t.token for c in chunks for t in c.logprobs)
    assert spelled == "".join(c.text for c in chunks)


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (Grammar(kind="json_schema", source='{"type": "thing"}', param="p"), "thing"),
        (Grammar(kind="json_schema", source='{"not": {}}', param="p"), "not"),
        (Grammar(kind="json_schema", source="[1", param="p"), "p"),
        (Grammar(kind="json_schema", source=ENDLESS, param="p"), "p"),
        (Grammar(kind="regex", source="(ab", param="p"), "unclosed group"),
        (Grammar(kind="lark", source="start: other", param="p"), "unknown name"),
    ],
)
async def test_what_cannot_be_compiled_is_refused_with_the_reason(
    engine: Engine, grammar: Grammar, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        await answer(engine, asked(grammar))
    assert refused.value.param == "p"
    assert "\n" not in refused.value.message


async def test_without_its_mark_a_grammar_changes_nothing(engine: Engine) -> None:
    free = await answer(engine, asked(None, max_tokens=40))
    assert await answer(engine, asked(regex("x", after=("never\n",)), max_tokens=40)) == free


def forced(text: str) -> SamplingParams:
    """Settings under which a free text is nothing but this one character."""
    return SamplingParams(temperature=0.0, logit_bias={3 + sorted_byte(text): 100.0})


def sorted_byte(character: str) -> int:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet()).index(character)


async def test_a_repeated_grammar_lets_the_text_be_free_again(engine: Engine) -> None:
    grammar = regex("[0-9]{2};", after=("#",), repeats=True)
    text, reason = await answer(engine, asked(grammar, max_tokens=12, sampling=forced("#")))
    assert re.fullmatch("(#[0-9]{2};){3}", text)
    assert reason == "length"


async def test_without_repeats_the_answer_ends_with_the_grammar(engine: Engine) -> None:
    grammar = regex("[0-9]{2};", after=("#",))
    text, reason = await answer(engine, asked(grammar, max_tokens=12, sampling=forced("#")))
    assert re.fullmatch("#[0-9]{2};", text)
    assert reason == "stop"


async def test_a_compiled_grammar_is_kept(engine: Any) -> None:
    await answer(engine, asked(regex("a{3}")))
    grammars: Grammars = engine._grammars
    known = await grammars.compiled(regex("a{3}"))
    assert await grammars.compiled(regex("a{3}")) is known


@pytest.mark.parametrize("rows", [[0, 1, 2], [1]])
def test_masks_leave_what_they_allow_and_other_rows_alone(rows: list[int]) -> None:
    torch.manual_seed(0)
    scores = torch.randn(3, 75)
    allowed = np.random.default_rng(1).random((len(rows), 75)) < 0.4
    bits = np.zeros((len(rows), 3), np.uint32)
    for i, j in zip(*allowed.nonzero(), strict=True):
        bits[i, j >> 5] |= np.uint32(1 << (int(j) & 31))
    masked = scores.clone()
    apply_masks(masked, rows, bits)
    for i in range(3):
        if i in rows:
            kept = torch.from_numpy(allowed[rows.index(i)])
            assert torch.equal(masked[i][kept], scores[i][kept])
            assert bool((masked[i][~kept] == float("-inf")).all())
        else:
            assert torch.equal(masked[i], scores[i])


def test_bits_are_unpacked_alike_on_an_accelerator() -> None:
    words = np.random.default_rng(2).integers(0, 2**32, (2, 3), dtype=np.uint64).astype(np.uint32)
    there = forbidden_on_device(torch.from_numpy(words.view(np.int32)))
    scores = torch.zeros(2, 90)
    apply_masks(scores, [0, 1], words)
    assert torch.equal(there[:, :90], scores == float("-inf"))


async def test_json_stands_on_one_line(engine: Engine) -> None:
    text, _ = await answer(engine, asked(schema(Palette)))
    assert re.fullmatch(r'\{"colours": ?\["\w+"(, ?"\w+")*\], ?"is_dark": ?(true|false)\}', text)


@pytest.mark.slow
async def test_other_kinds_of_models_and_tokenizers_are_held_too(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, T5Config

    torch.manual_seed(2)
    t5 = T5Config(
        vocab_size=400, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=2, initializer_factor=3.0,
    )  # fmt: skip
    AutoModelForSeq2SeqLM.from_config(t5).save_pretrained(tmp_path / "t5")
    make_tokenizer().save_pretrained(tmp_path / "t5")
    pieces = sentencepiece_like()
    config = config_of("llama")
    config.vocab_size = len(pieces)
    config.eos_token_id = pieces.eos_token_id
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "pieces")
    pieces.save_pretrained(tmp_path / "pieces")
    for name in ("t5", "pieces"):
        engine = await open_engine(
            ModelSettings(model_path=str(tmp_path / name), device="cpu", num_threads=1),
            EngineSettings(max_cached_tokens=4096),
        )
        try:
            for model in (Person, Palette, Code):
                text, reason = await answer(engine, asked(schema(model)))
                assert reason == "stop", text
                model.model_validate_json(text)
        finally:
            await engine.stop(0.0)


@pytest.mark.slow
async def test_all_of_100_random_answers_are_valid(model_folder: Callable[[str], Path]) -> None:
    engine = await opened(model_folder("qwen2"), "slots")
    try:
        for model in SCHEMAS:
            found = await answers(engine, asked(schema(model), n=10))
            assert {reason for _, reason in found.values()} == {"stop"}
            for text, _ in found.values():
                model.model_validate_json(text)
    finally:
        await engine.stop(0.0)


BARE = r"""
start: CALL NUMBER "}" | TEXT | "@" NUMBER
CALL: /[ \n]*\{\s*"f"\s*:/
NUMBER: /[0-9]{3}/
TEXT: /(?s:.*)/ & ~/@(?s:.*)/ & ~/[ \n]*\{\s*"f"\s*:(?s:.*)/
"""


async def test_a_text_is_held_only_while_it_may_open_the_grammar(engine: Any) -> None:
    """Each letter is a token, and none has been sampled: the way alone is looked at."""
    grammar = Grammar(kind="lark", source=BARE, param="tools", opens=('{"f":',), after=("@",))
    compiled = await engine._grammars.compiled(grammar)

    def letters(text: str) -> list[int]:
        return engine.tokenize(text, add_special_tokens=False)

    def allowed(way: Any, ids: list[int]) -> list[bool]:
        bits = np.zeros((engine.info.vocab_size + 31) // 32, dtype=np.uint32)
        way.fill(bits)
        return [bool(bits[i >> 5] >> np.uint32(i & 31) & 1) for i in ids]

    def after(text: str) -> tuple[Any, list[int]]:
        way = compiled.begin()
        for token_id in letters(text):
            assert not way.accept(token_id)
        return way, letters("x7")

    for text in ("Hello", '{"g"', " {5", "{{"):
        way, _ = after(text)
        assert not way.is_active and not way.is_broken
    for text in ("", " \n{", '{ "f"', '{"f" :', ' {"f":12'):
        way, ids = after(text)
        assert way.is_active
        assert allowed(way, ids) == [":" not in text, True], text
    way, (_, seven) = after('{"f":12')
    assert not way.accept(seven)
    assert way.accept(letters("}")[0])
    # In a text that is free, the mark begins the grammar anew.
    way, ids = after("so @")
    assert way.is_active
    assert allowed(way, ids) == [False, True]
