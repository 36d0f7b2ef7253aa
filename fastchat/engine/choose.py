"""Which engine serves a model: the slot scheduler, or the fallback where a model needs it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from fastchat.engine.base import Engine
from fastchat.errors import OutOfRangeError, UsageError
from fastchat.model.load import ModelSettings

if TYPE_CHECKING:
    from fastchat.engine.packed import PackedModel
    from fastchat.model.load import LoadedModel

logger = logging.getLogger(__name__)

CACHED_TOKENS = 32768
"""Default budget of cached tokens, where one full context is not more."""

SWITCH_INTERVAL_S = 0.0005
"""How long the event loop may keep the model's thread from its next operation.

Python's own 5 ms is as long as a whole step of a small model.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How requests share the model."""

    max_running: int = 128
    """Requests that advance together at most."""
    max_cached_tokens: int | None = None
    """Tokens whose keys and values are kept; by default 32768, or one full context if more."""
    max_step_tokens: int = 512
    """Tokens one step computes at most; longer prompts are computed in pieces."""
    max_loras: int = 16
    """Adapters that may be loaded at a time."""
    max_lora_rank: int = 256
    """Rank of an adapter at most."""
    scheduler: Literal["auto", "slots", "groups"] = "auto"
    """`slots`, `groups`, or `auto`: slots where the start-up self-check allows them."""


async def open_engine(
    model: ModelSettings, engine: EngineSettings, *, shared: dict[str, Engine] | None = None
) -> Engine:
    """Loads the model in the engine's own thread, checks it, and returns the running engine.

    A path that holds an adapter gives the engine of that adapter, over its base.

    shared: engines that are open, which models and adapters asked for later may use; what is
    opened is added.

    Raises:
        UsageError: settings that do not fit the machine or the model.
        ModelError: the model cannot be loaded, or not by the scheduler asked for.
    """
    _check(engine)
    if _is_adapter(model.model_path):
        return await _open_adapter(model, engine, shared)
    key = "\0".join((os.path.realpath(os.path.expanduser(model.model_path)), *_format(model)))
    if shared is not None and key in shared:
        return shared[key]
    opened = await _open_model(model, engine)
    if shared is not None:
        shared[key] = opened
    return opened


async def load_adapter(base: Engine, name: str, path: str) -> Engine:
    """The engine of an adapter that is loaded over `base`.

    Raises:
        UsageError: it is none that can be served over this model, or the model takes none.
        DataError: its files are damaged.
        UnavailableError: it has to be downloaded, and cannot be.
    """
    from fastchat.engine.adapted import AdaptedEngine, AdapterHost

    if "adapters" not in base.info.abilities:
        raise UsageError(
            f"the adapter {name!r} cannot be served: this model is answered by the scheduler "
            f"{base.info.scheduler!r}, which mixes none; merge it (fastchat.model.apply_lora)",
            param="lora_name",
        )
    host = cast(AdapterHost, base)
    await host.load_adapter(name, path)
    return AdaptedEngine(host, name, path=path)


def _is_adapter(model_path: str) -> bool:
    """Whether a path holds, or names, an adapter that is served over its base."""
    from fastchat.families.registry import registry
    from fastchat.model.merged_adapter import pair_adapter

    if registry().recognise(model_path).family.loader != "peft":
        return False
    return pair_adapter(model_path) is None


async def _open_adapter(
    model: ModelSettings, engine: EngineSettings, shared: dict[str, Engine] | None
) -> Engine:
    """The engine of an adapter over its base, which is opened for it unless it is shared."""
    from fastchat.model.adapters import base_of, find_adapter

    folder = await asyncio.to_thread(
        lambda: find_adapter(model.model_path, revision=model.revision)
    )
    base_path = base_of(folder)
    below = replace(model, model_path=base_path, revision="main")
    base = await open_engine(below, engine, shared=shared)
    try:
        return await load_adapter(base, model.model_path, str(folder))
    except BaseException:
        if shared is None:
            await base.stop(0)
        raise


def _format(model: ModelSettings) -> tuple[str, str]:
    """What makes two prompt formats of one model."""
    return (model.conv_template or "", model.chat_template or "")


async def _open_model(model: ModelSettings, engine: EngineSettings) -> Engine:
    from fastchat.engine.thread import ModelThread
    from fastchat.model.load import load

    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
    thread = ModelThread()
    try:
        loaded = await thread.run(load, model)
        packed = await thread.run(_packed_or_none, loaded, engine)
        if loaded.is_encoder_decoder:
            from fastchat.engine.encoder_decoder import EncoderDecoderEngine

            chosen = EncoderDecoderEngine(loaded, engine, path=model.model_path)
        elif packed is None:
            from fastchat.engine.groups import GroupEngine

            chosen = GroupEngine(loaded, engine, path=model.model_path)
        else:
            from fastchat.engine.slots import SlotEngine

            chosen = SlotEngine(loaded, packed, engine, path=model.model_path)
        await chosen.start(thread)
    except BaseException:
        await thread.close()
        raise
    return chosen


def _check(engine: EngineSettings) -> None:
    """Refuses numbers nothing can be done with."""
    for name, least in (
        ("max_running", 1),
        ("max_step_tokens", 16),
        ("max_cached_tokens", 256),
        ("max_loras", 0),
        ("max_lora_rank", 1),
    ):
        value = getattr(engine, name)
        if value is not None and value < least:
            flag = "--" + name.replace("_", "-")
            raise OutOfRangeError(f"{flag} {value}: give {least} or more", param=name)


def _packed_or_none(loaded: LoadedModel, engine: EngineSettings) -> PackedModel | None:
    """The model ready for the slot scheduler, or None where the fallback is to serve it."""
    from fastchat.engine.check import check, check_pictures
    from fastchat.engine.linear import filled, pack_linears
    from fastchat.engine.norms import compile_norms
    from fastchat.engine.packed import PackedModel, UnsupportedModelError
    from fastchat.engine.rotary import compile_rotary

    if loaded.is_encoder_decoder and engine.scheduler == "slots":
        raise UsageError(
            "--scheduler slots: a model with an encoder and a decoder is served in groups; "
            "leave the flag out"
        )
    if engine.scheduler == "groups" or loaded.is_encoder_decoder or not loaded.can_generate:
        return None
    n_packed = pack_linears(loaded.model)
    n_compiled = compile_norms(loaded.model) + compile_rotary(loaded.model, loaded.dtype)
    packed = None
    try:
        packed = PackedModel(
            loaded.model,
            budget=engine.max_cached_tokens or max(CACHED_TOKENS, loaded.context_len),
            longest=loaded.context_len,
            device=loaded.device,
            filled=filled if n_packed else int,
        )
        check(packed, loaded.model, loaded.vocab_size)
    except UnsupportedModelError as error:
        if packed is not None:
            packed.close()
        if engine.scheduler == "slots":
            raise
        logger.warning("slots cannot serve this model (%s); groups will", error)
        return None
    if loaded.processor is not None:
        try:
            check_pictures(packed, loaded)
            packed.has_vision = True
        except UnsupportedModelError as error:
            logger.warning("pictures are refused, text is served: %s", error)
    logger.info(
        "scheduler=slots cached_tokens=%d packed=%d compiled=%d",
        *(packed.cache.budget, n_packed, n_compiled),
    )
    return packed
