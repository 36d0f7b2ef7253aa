import pytest

from fastchat.engine.base import Chunk, GenerationRequest
from fastchat.engine.echo import EchoEngine, EchoOptions, echo_options
from fastchat.errors import ContextOverflowError, UsageError
from fastchat.message import Message


async def chunks(engine: EchoEngine, **fields: object) -> list[Chunk]:
    request = GenerationRequest(request_id="r", **fields)  # type: ignore[arg-type]
    return [chunk async for chunk in engine.generate(request)]


def text_of(found: list[Chunk], index: int = 0) -> str:
    return "".join(chunk.text for chunk in found if chunk.index == index)


async def test_it_repeats_the_last_user_message() -> None:
    messages = (Message(role="user", text="a"), Message(role="user", text="hello"))
    found = await chunks(EchoEngine(), messages=messages)
    assert text_of(found) == "hello"
    assert found[-1].finish_reason == "stop"
    assert found[-1].usage is not None and found[-1].usage.completion_tokens == 5


async def test_each_choice_ends_once_and_the_later_are_marked() -> None:
    found = await chunks(EchoEngine(), prompt="ab", n=3)
    assert [text_of(found, i) for i in range(3)] == ["ab", "ab (1)", "ab (2)"]
    ends = [chunk.index for chunk in found if chunk.finish_reason]
    assert sorted(ends) == [0, 1, 2]


async def test_limit_stop_and_ignored_end() -> None:
    engine = EchoEngine()
    assert text_of(await chunks(engine, prompt="hello", max_tokens=2)) == "he"
    assert text_of(await chunks(engine, prompt="hello", stop=("x", "lo"))) == "hel"
    found = await chunks(engine, prompt="ab", max_tokens=5, ignore_eos=True)
    assert text_of(found) == "ababa"
    assert found[-1].finish_reason == "length"


async def test_a_closed_iterator_is_counted_as_aborted() -> None:
    engine = EchoEngine()
    request = GenerationRequest(request_id="r", prompt="hello")
    iterator = engine.generate(request)
    await anext(iterator)
    assert engine.stats().running == 1
    await iterator.aclose()  # type: ignore[attr-defined]
    assert (engine.stats().running, engine.aborted_total) == (0, 1)


async def test_it_fails_where_it_is_told_to() -> None:
    found = await chunks(EchoEngine(EchoOptions(fail_on="bad", fail_after=1)), prompt="bad")
    assert text_of(found) == "b"
    assert found[-1].finish_reason == "error"
    assert found[-1].error is not None


async def test_prompts_beyond_the_context_or_the_vocabulary_are_refused() -> None:
    engine = EchoEngine(EchoOptions(context=4))
    with pytest.raises(ContextOverflowError):
        await chunks(engine, prompt="hello")
    with pytest.raises(UsageError, match="1114112"):
        await chunks(engine, prompt=(0x110000,))


def test_options_stand_after_the_name() -> None:
    options = echo_options("echo:delay_ms=1.5,context=64,fail_on=bad")
    assert options == EchoOptions(delay_ms=1.5, context=64, fail_on="bad")
    for wrong in ("echo:speed=3", "echo:context=many"):
        with pytest.raises(UsageError, match="is no option"):
            echo_options(wrong)
