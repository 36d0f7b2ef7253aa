"""The engine of a model that answers in this process."""

from typing import TYPE_CHECKING

from fastchat.engine.choose import EngineSettings
from fastchat.errors import ModelError

if TYPE_CHECKING:
    from fastchat.engine.base import Engine
    from fastchat.model.load import ModelSettings


async def open_answering(
    settings: "ModelSettings", engine_settings: EngineSettings | None = None
) -> "Engine":
    """Opens a model that answers; `echo:` is the one without a model.

    Raises:
        ModelError: it cannot be loaded, or gives embeddings only.
    """
    from fastchat.engine.echo import PREFIX, EchoEngine, echo_options

    if settings.model_path.startswith(PREFIX):
        return EchoEngine(echo_options(settings.model_path))
    from fastchat.engine.choose import open_engine

    engine = await open_engine(settings, engine_settings or EngineSettings())
    if "generate" not in engine.info.abilities:
        await engine.stop()
        raise ModelError(f"{settings.model_path} gives embeddings only; it cannot answer.")
    return engine
