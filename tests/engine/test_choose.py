from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fastchat.engine.choose import EngineSettings, open_engine
from fastchat.errors import ModelError, UsageError
from fastchat.model.load import ModelSettings


def settings_of(folder: Path) -> ModelSettings:
    return ModelSettings(model_path=str(folder), dtype="float32", num_threads=1, device="cpu")


@pytest.mark.parametrize(
    "wrong",
    [{"max_running": 0}, {"max_step_tokens": 1}, {"max_cached_tokens": -5}],
)
async def test_numbers_nothing_can_be_done_with_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("_", "-")):
        await open_engine(ModelSettings(model_path="nowhere"), EngineSettings(**wrong))


async def test_a_model_that_slots_cannot_serve_is_refused_when_slots_are_asked_for(
    model_folder: Callable[[str], Path],
) -> None:
    with pytest.raises(ModelError):
        await open_engine(settings_of(model_folder("bloom")), EngineSettings(scheduler="slots"))


async def test_a_cache_larger_than_the_memory_is_one_clear_error(
    model_folder: Callable[[str], Path],
) -> None:
    with pytest.raises(ModelError, match="--max-cached-tokens"):
        await open_engine(
            settings_of(model_folder("llama")), EngineSettings(max_cached_tokens=2**42)
        )


async def test_the_context_is_no_longer_than_the_cache(
    model_folder: Callable[[str], Path],
) -> None:
    settings = replace(settings_of(model_folder("llama")), context_len=2048)
    engine = await open_engine(settings, EngineSettings(max_cached_tokens=300))
    assert engine.info.context_length == engine.stats().cache_budget == 256
    await engine.stop()
