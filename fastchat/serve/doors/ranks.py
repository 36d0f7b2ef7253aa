"""Rerank and score of any model: by its endpoint, or here, by its endpoint's embeddings.

Workers of ours, and vLLM, have these routes; what they answer passes as it is. For an endpoint
that does not know them the texts are embedded, and their cosines are the scores.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from fastchat.errors import UnavailableError
from fastchat.protocol.openai_api import Body, ignored_fields, parse
from fastchat.protocol.openai_replies import ReplyHead, new_id
from fastchat.protocol.rank_api import RerankRequest, ScoreRequest, rerank_reply, score_reply
from fastchat.serve.asgi import json_response, parse_json_object, read_body, unless_gone
from fastchat.serve.doors.body import naming
from fastchat.serve.doors.door import Door, Handler
from fastchat.serve.doors.inside import Inside, Reply

RERANK_PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
SCORE_PATHS = ("/v1/score", "/score")
UNKNOWN_ROUTE = frozenset({404, 405, 501})
KEPT_HEADERS = frozenset({"content-type", "retry-after"})

B = TypeVar("B", bound=Body)


class RankDoors:
    """Answers how well texts fit each other."""

    def __init__(self, inside: Inside, *, limit_bytes: int) -> None:
        self._inside = inside
        self._limit_bytes = limit_bytes

    def doors(self) -> list[Door]:
        handlers: dict[str, Handler] = {
            **dict.fromkeys(RERANK_PATHS, self._rerank),
            **dict.fromkeys(SCORE_PATHS, self._score),
        }
        return [Door(method="POST", path=path, handler=handlers[path]) for path in handlers]

    async def _rerank(self, request: Request) -> Response:
        fields = parse_json_object(await read_body(request, self._limit_bytes))
        if (passed := await self._passed(request, fields)) is not None:
            return passed
        body = parse(RerankRequest, fields)
        pairs = [(body.query, document) for document in body.documents]
        scores, n_tokens = await unless_gone(request, self._cosines(request, body.model, pairs))
        shows = body.return_documents
        if shows is None:
            shows = not request.url.path.startswith("/v2/")
        head = _head("rerank", body.model)
        reply = rerank_reply(head, body, scores, n_tokens=n_tokens, shows=shows)
        return json_response(reply, headers=naming(ignored_fields(RerankRequest, fields)))

    async def _score(self, request: Request) -> Response:
        fields = parse_json_object(await read_body(request, self._limit_bytes))
        if (passed := await self._passed(request, fields)) is not None:
            return passed
        body = parse(ScoreRequest, fields)
        work = self._cosines(request, body.model, body.pairs)
        scores, n_tokens = await unless_gone(request, work)
        reply = score_reply(_head("score", body.model), scores, n_tokens=n_tokens)
        return json_response(reply, headers=naming(ignored_fields(ScoreRequest, fields)))

    async def _passed(self, request: Request, fields: dict[str, Any]) -> Response | None:
        """The endpoint's own answer; None where it does not know the route."""

        async def ask() -> tuple[Reply, bytes]:
            reply = await self._inside.forward(request.scope, request.url.path, fields)
            try:
                return reply, await reply.whole()
            finally:
                await reply.close()

        reply, content = await unless_gone(request, ask())
        if reply.status in UNKNOWN_ROUTE:
            return None
        headers = reply.kept_headers()
        for name, value in reply.headers:
            if (key := name.decode("latin-1")) in KEPT_HEADERS:
                headers[key] = value.decode("latin-1")
        return Response(content, reply.status, headers)

    async def _cosines(
        self, request: Request, model: str, pairs: Sequence[tuple[str, str]]
    ) -> tuple[list[float], int]:
        """The cosine of each pair's embeddings, and the tokens of all."""
        import numpy as np

        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        asked = {"model": model, "input": texts, "encoding_format": "float"}
        reply = await self._inside.post(request.scope, "/v1/embeddings", asked)
        try:
            if reply.status != 200:
                raise await reply.failure()
            value = await reply.json()
        finally:
            await reply.close()
        try:
            entries = sorted(value["data"], key=lambda entry: entry["index"])
            vectors = np.asarray([entry["embedding"] for entry in entries], dtype=np.float64)
            n_tokens = int((value.get("usage") or {}).get("total_tokens") or 0)
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            places = {text: i for i, text in enumerate(texts)}
            firsts = vectors[[places[first] for first, _ in pairs]]
            seconds = vectors[[places[second] for _, second in pairs]]
        except (KeyError, TypeError, ValueError, IndexError):
            raise UnavailableError(
                "The model's endpoint gave no embedding for each text."
            ) from None
        return (firsts * seconds).sum(axis=1).tolist(), n_tokens


def _head(prefix: str, model: str) -> ReplyHead:
    return ReplyHead(id=new_id(prefix), object="list", model=model, fingerprint="")
