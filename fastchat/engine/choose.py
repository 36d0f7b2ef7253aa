"""Which engine serves a model: the slot scheduler, or the fallback where a model needs it."""

from dataclasses import dataclass

from fastchat.engine.base import Engine
from fastchat.model.load import ModelSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How requests share the model."""

    max_running: int = 128
    """Requests that advance together at most."""
    max_cached_tokens: int | None = None
    """Budget of tokens whose keys and values are kept; the default is 32768, or one full context if that is more."""
    max_step_tokens: int = 512
    """Tokens one step computes at most; longer prompts are computed in pieces."""
    scheduler: str = "auto"
    """`slots`, `groups`, or `auto`: slots where the start-up self-check allows them."""


async def open_engine(model: ModelSettings, engine: EngineSettings) -> Engine:
    """Loads the model in the engine's own thread, checks it, and returns the running engine."""
    raise NotImplementedError
