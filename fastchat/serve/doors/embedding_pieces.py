"""Embeddings of many texts, asked in pieces side by side, where the operator wants it so.

A worker of ours makes batches by itself; for other endpoints the environment variable
FASTCHAT_WORKER_API_EMBEDDING_BATCH_SIZE says how many texts one call may hold.
"""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fastchat.errors import UnavailableError
from fastchat.protocol.openai_api import MAX_TEXTS
from fastchat.serve.asgi import answering, json_response, parse_json_object, unless_gone
from fastchat.serve.doors.inside import Inside

PATH = "/v1/embeddings"
PIECE = "fastchat.is_piece"
AT_ONCE = 8


class EmbeddingPieces:
    """Splits requests for embeddings.

    Args:
        size: texts in one call; None splits nothing.
    """

    def __init__(self, inside: Inside, size: int | None) -> None:
        self._inside = inside
        self._size = size

    def split(self, scope: Scope, body: bytes) -> list[dict[str, Any]]:
        """The bodies of the calls; empty where the request goes as it is."""
        if self._size is None or scope.get(PIECE):
            return []
        fields = parse_json_object(body)
        texts = fields.get("input")
        if not isinstance(texts, list) or not self._size < len(texts) <= MAX_TEXTS:
            return []  # what are too many is refused by the endpoint
        if _is_one(texts):
            return []
        starts = range(0, len(texts), self._size)
        return [{**fields, "input": texts[i : i + self._size]} for i in starts]

    async def answer(
        self, bodies: list[dict[str, Any]], scope: Scope, receive: Receive, send: Send
    ) -> int:
        """Answers a request whose body was read, from the answers to `bodies`; gives the status."""

        async def handler(request: Request) -> Response:
            return await unless_gone(request, self._joined(scope, bodies))

        response = await answering(handler)(Request(scope, receive))
        if response.status_code != 499:
            await response(scope, receive, send)
        return response.status_code

    async def _joined(self, scope: Scope, bodies: list[dict[str, Any]]) -> Response:
        places = asyncio.Semaphore(AT_ONCE)

        async def ask(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
            async with places:
                return await self._ask(scope, body)

        tasks = [asyncio.ensure_future(ask(body)) for body in bodies]
        try:
            replies = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        values = [value for value, _ in replies]
        data = [entry for value in values for entry in value["data"]]
        usage = {
            name: sum(value.get("usage", {}).get(name) or 0 for value in values)
            for name in ("prompt_tokens", "total_tokens")
        }
        numbered = [{**entry, "index": i} for i, entry in enumerate(data)]
        joined = {**values[0], "data": numbered, "usage": usage}
        return json_response(joined, headers=replies[0][1])

    async def _ask(
        self, scope: Scope, body: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The value of a piece's reply, and the headers that concern the client."""
        value, headers = await self._inside.ask({**scope, PIECE: True}, PATH, body)
        data = value.get("data") if isinstance(value, dict) else None
        if not isinstance(data, list) or len(data) != len(body["input"]):
            raise UnavailableError("The model's endpoint did not answer with an embedding each.")
        return value, headers


def _is_one(texts: list[Any]) -> bool:
    """Whether a list is one text, as token ids."""
    return all(type(item) is int for item in texts)
