"""Embeddings of prompts: by a model behind an endpoint, by one in this process, or by words."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastchat.errors import DataError, UnavailableError, UsageError
from fastchat.settings import Env, alias

if TYPE_CHECKING:
    from fastchat.arena.votes import Floats

WORDS = "words"
"""The way that needs no model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSettings:
    """How prompts become vectors."""

    model: str = WORDS
    """Embedding model of the endpoint; `words` needs none and compares the words themselves."""
    model_path: str | None = None
    """Compute with this model in this process instead of asking an endpoint."""
    batch_size: int = 256
    """Prompts in one request."""
    api_base: Annotated[str | None, Env("OPENAI_BASE_URL"), alias("--openai-api-base")] = None
    """Base URL of the endpoint, with its /v1; by default OpenAI's own."""
    api_key: Annotated[str | None, Env("OPENAI_API_KEY")] = None
    """Its key; better in the environment."""


def embed(texts: Sequence[str], settings: EmbeddingSettings) -> "Floats":
    """(n, d) vectors of length 1.

    Raises:
        UsageError: settings that cannot be.
        UnavailableError: the endpoint failed.
    """
    from fastchat.arena.topics import by_words, normalised

    if settings.batch_size < 1:
        raise UsageError(f"--batch-size {settings.batch_size} is below 1.")
    if settings.model_path is not None:
        return normalised(asyncio.run(_local(texts, settings)))
    if settings.model == WORDS:
        return normalised(by_words(texts))
    return normalised(_asked(texts, settings))


def _asked(texts: Sequence[str], settings: EmbeddingSettings) -> "Floats":
    """Of the endpoint, a batch at a time."""
    import numpy as np
    from openai import APIError, OpenAI

    vectors: list[Any] = []
    with OpenAI(base_url=settings.api_base, api_key=settings.api_key or "EMPTY") as client:
        for start in range(0, len(texts), settings.batch_size):
            batch = list(texts[start : start + settings.batch_size])
            try:
                reply = client.embeddings.create(input=batch, model=settings.model)
            except APIError as error:
                status = getattr(error, "status_code", None)
                said = f"HTTP {status}" if status else type(error).__name__
                raise UnavailableError(
                    f"the endpoint made no embeddings with {settings.model}: {said}; "
                    f"--model {WORDS} needs none."
                ) from None
            vectors += [item.embedding for item in sorted(reply.data, key=lambda d: d.index)]
    try:
        made = np.array(vectors, np.float64)
    except (ValueError, TypeError):
        made = np.zeros(0)
    if made.ndim != 2 or len(made) != len(texts):
        raise DataError(f"the endpoint gave {len(vectors)} vectors for {len(texts)} prompts.")
    return made


async def _local(texts: Sequence[str], settings: EmbeddingSettings) -> "Floats":
    """Of a model in this process."""
    import numpy as np

    from fastchat.engine.choose import EngineSettings, open_engine
    from fastchat.model.load import ModelSettings

    model = ModelSettings(model_path=settings.model_path or "")
    engine = await open_engine(model, EngineSettings())
    try:
        vectors: list[Any] = []
        for start in range(0, len(texts), settings.batch_size):
            batch = list(texts[start : start + settings.batch_size])
            vectors += list((await engine.embed(batch)).vectors)
        return np.array(vectors, np.float64)
    finally:
        await engine.stop()
