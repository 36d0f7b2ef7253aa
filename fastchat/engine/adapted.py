"""One adapter as an engine of its own: its model name, its answers, its base's machinery."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Protocol

from fastchat.engine.base import (
    Chunk,
    Embeddings,
    Engine,
    EngineInfo,
    EngineStats,
    GenerationRequest,
)
from fastchat.message import ChatOptions, Message


class AdapterHost(Engine, Protocol):
    """An engine that answers by adapters beside its base."""

    async def load_adapter(self, name: str, path: str) -> None:
        """Makes an adapter ready under a name.

        Raises:
            UsageError: it is none that can be served over this model.
            DataError: its files are damaged.
        """
        ...

    def unload_adapter(self, name: str) -> None:
        """Refuses new requests for an adapter, and forgets it when the last has ended."""
        ...

    async def embed(
        self, texts: Sequence[str | Sequence[int]], *, adapter: str | None = None
    ) -> Embeddings: ...


class AdaptedEngine:
    """The engine of an adapter that `base` has loaded. Stopping it stops the base."""

    def __init__(self, base: AdapterHost, name: str, *, path: str) -> None:
        """
        Args:
            base: the engine of the model it was trained on.
            name: what the adapter is called there.
            path: what it is called by its operator.
        """
        self.base = base
        self.name = name
        self.info: EngineInfo = replace(base.info, model_path=path)

    async def start(self) -> None:
        await self.base.start()

    async def stop(self, drain_s: float = 5.0) -> None:
        await self.base.stop(drain_s)

    def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        return self.base.generate(replace(request, adapter=self.name))

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> Embeddings:
        return await self.base.embed(texts, adapter=self.name)

    def render(self, messages: Sequence[Message], options: ChatOptions = ChatOptions()) -> str:
        return self.base.render(messages, options)

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self.base.tokenize(text, add_special_tokens=add_special_tokens)

    def detokenize(self, ids: Sequence[int]) -> str:
        return self.base.detokenize(ids)

    def stats(self) -> EngineStats:
        return self.base.stats()
