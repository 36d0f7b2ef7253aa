"""All doors of a gateway, and what they keep running.

The doors are imported when a gateway is made, so that its `--help` waits for no body's class.
"""

import asyncio

from fastchat.serve.doors.door import DoorTable
from fastchat.serve.doors.door_stores import DoorStores
from fastchat.serve.doors.embedding_pieces import EmbeddingPieces
from fastchat.serve.doors.inside import Inside, Route

FILE_LIMIT_BYTES = 200 << 20
"""Of one uploaded file; OpenAI allows a batch as much."""


class GatewayDoors:
    """The doors of one gateway.

    Args:
        route: answers a request to the gateway's own routes.
        limit_bytes: of a request's body.
        database_url: where doors remember; None is for the life of the process.
        has_keys: a request needs a key.
        embedding_batch: texts in one call for embeddings; None is all of a request's.
    """

    def __init__(
        self,
        route: Route,
        *,
        limit_bytes: int,
        database_url: str | None = None,
        has_keys: bool = False,
        embedding_batch: int | None = None,
    ) -> None:
        from fastchat.serve.doors.batch_runner import BatchRunner
        from fastchat.serve.doors.batches import BatchesDoors
        from fastchat.serve.doors.files import FilesDoors
        from fastchat.serve.doors.messages import MessagesDoors
        from fastchat.serve.doors.openapi import OpenApiDoors
        from fastchat.serve.doors.ranks import RankDoors
        from fastchat.serve.doors.responses import ResponsesDoors

        inside = Inside(route)
        self._stores = DoorStores(database_url)
        self._responses = ResponsesDoors(inside, self._stores.responses, limit_bytes=limit_bytes)
        self._runner = BatchRunner(inside, self._stores, line_limit_bytes=limit_bytes)
        self.table = DoorTable(
            [
                *MessagesDoors(inside, limit_bytes=limit_bytes).doors(),
                *self._responses.doors(),
                *RankDoors(inside, limit_bytes=limit_bytes).doors(),
                *FilesDoors(self._stores, limit_bytes=FILE_LIMIT_BYTES).doors(),
                *BatchesDoors(self._stores, self._runner).doors(),
                *OpenApiDoors(has_keys=has_keys).doors(),
            ]
        )
        self.at = self.table.at
        self.embeddings = EmbeddingPieces(inside, embedding_batch)

    async def start(self) -> None:
        """Begins what goes on beside requests: batches that an earlier process left."""
        if self._stores.is_lasting:
            self._runner.start()

    async def stop(self) -> None:
        """Ends what was started."""
        await self._responses.stop()
        await self._runner.stop()
        await asyncio.to_thread(self._stores.close)
