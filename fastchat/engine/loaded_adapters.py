"""The adapters of a running engine by name: they come and go while others are answering."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastchat.engine.adapters import AdapterBank
from fastchat.errors import DataError, UnknownModelError, UsageError
from fastchat.model.adapters import Adapter, find_adapter, read_adapter

if TYPE_CHECKING:
    from fastchat.engine.choose import EngineSettings
    from fastchat.engine.packed import PackedModel
    from fastchat.engine.thread import ModelThread

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Computer:
    """What computes a request: the model itself, or an adapter over it."""

    place: int | None
    """In the bank."""
    key: int
    """Tells its texts in the cache from all others; never used again."""


BASE = Computer(None, 0)


class LoadedAdapters:
    """Adapters by name. Names belong to the event loop, places to the model's thread."""

    def __init__(
        self, packed: PackedModel, model: Any, settings: EngineSettings, *, path: str
    ) -> None:
        """
        Args:
            packed: what computes; it gets a bank with the first adapter.
            model: of transformers, the same.
            settings: how many adapters there may be, and how large.
            path: what the model is called by its operator.
        """
        self._packed = packed
        self._model = model
        self._settings = settings
        self._path = path
        self._by_name: dict[str, Computer] = {}
        self._keys = itertools.count(1)
        self._retired: set[Computer] = set()
        """Those that leave with their last request."""

    def get(self, name: str | None) -> Computer:
        """What computes the requests for an adapter; for None the base.

        Raises UnknownModelError when none of this name is loaded.
        """
        if name is None:
            return BASE
        if name not in self._by_name:
            raise UnknownModelError(f"the adapter {name[:100]!r} is not loaded", param="model")
        return self._by_name[name]

    async def load(self, name: str, path: str, thread: ModelThread) -> None:
        """Makes an adapter ready under a name.

        Raises:
            UsageError: it is none that can be served over this model.
            DataError: its files are damaged.
            UnavailableError: it has to be downloaded, and cannot be.
        """
        self._refuse_taken(name)
        try:
            adapter = await asyncio.to_thread(lambda: read_adapter(find_adapter(path), path=path))
        except (UsageError, DataError) as error:
            error.param = error.param or "lora_path"
            raise
        place = await thread.run(self._add, name, adapter)
        found = Computer(place, next(self._keys))
        if name in self._by_name:  # by someone else, in the meantime
            await thread.run(self._remove, found)
        self._refuse_taken(name)
        self._by_name[name] = found
        logger.info("adapter=%s rank=%d layers=%d", name, adapter.rank, len(adapter.layers))

    def unload(
        self, name: str, thread: ModelThread, *, in_use: Callable[[], set[Computer]]
    ) -> None:
        """Refuses new requests for an adapter, and forgets it when the last has ended.

        in_use: called in the model's thread. Raises what `get` raises.
        """
        gone = self.get(name)
        del self._by_name[name]

        def retire() -> None:
            self._retired.add(gone)
            self.forget_retired(in_use())

        thread.post(retire)

    def forget_retired(self, in_use: set[Computer]) -> None:
        """Frees the places of unloaded adapters that no request needs; in the model's thread."""
        for gone in self._retired - in_use:
            self._remove(gone)
        self._retired &= in_use

    @property
    def is_retiring(self) -> bool:
        """Whether an unloaded adapter waits for its last request; in the model's thread."""
        return bool(self._retired)

    def _refuse_taken(self, name: str) -> None:
        if name in self._by_name:
            raise UsageError(f"the adapter {name!r} is loaded already", param="lora_name")

    def _add(self, name: str, adapter: Adapter) -> int:
        if self._packed.adapters is None:
            self._packed.adapters = AdapterBank(
                self._model,
                base=self._path,
                max_rank=self._settings.max_lora_rank,
                max_adapters=self._settings.max_loras,
            )
        return self._packed.adapters.add(name, adapter)

    def _remove(self, gone: Computer) -> None:
        assert self._packed.adapters is not None and gone.place is not None
        self._packed.adapters.remove(gone.place)
