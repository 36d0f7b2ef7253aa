"""Rerank and score of a worker: by a cross-encoder, or by the embeddings of any other model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from fastchat.engine.base import Engine
from fastchat.errors import UsageError
from fastchat.protocol.openai_replies import ReplyHead, new_id
from fastchat.protocol.rank_api import (
    RerankRequest,
    ScoreRequest,
    rerank_reply,
    score_reply,
)
from fastchat.serve.asgi import Handler, json_response, unless_gone
from fastchat.serve.generation import check_size

if TYPE_CHECKING:
    from fastchat.engine.scoring import Scorer
    from fastchat.serve.worker import Worker

RERANK_PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
SCORE_PATHS = ("/v1/score", "/score")


class RankRoutes:
    """Answers how well texts fit each other."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker

    def posts(self) -> dict[str, Handler]:
        """The handlers by path."""
        return {
            **dict.fromkeys(RERANK_PATHS, self._rerank),
            **dict.fromkeys(SCORE_PATHS, self._score),
        }

    async def _rerank(self, request: Request) -> Response:
        body, headers = await self._worker.body(request, RerankRequest)
        pairs = [(body.query, document) for document in body.documents]
        scores, n_tokens = await self._scored(request, body.model, pairs)
        shows = body.return_documents
        if shows is None:  # Cohere's second version repeats nothing
            shows = not request.url.path.startswith("/v2/")
        head = _head("rerank", body.model)
        reply = rerank_reply(head, body, scores, n_tokens=n_tokens, shows=shows)
        return json_response(reply, headers=headers)

    async def _score(self, request: Request) -> Response:
        body, headers = await self._worker.body(request, ScoreRequest)
        scores, n_tokens = await self._scored(request, body.model, body.pairs)
        reply = score_reply(_head("score", body.model), scores, n_tokens=n_tokens)
        return json_response(reply, headers=headers)

    async def _scored(
        self, request: Request, model: str, pairs: Sequence[tuple[str, str]]
    ) -> tuple[list[float], int]:
        """A number for each pair, and the tokens of all."""
        engine = self._worker.engine(model)
        if "score" not in engine.info.abilities:
            return await self._by_embeddings(request, engine, pairs)
        for text in (text for pair in pairs for text in pair):
            check_size(len(text), engine.info, param="documents")
        scorer = cast("Scorer", engine)
        work = self._worker.admitted(lambda: scorer.score(pairs))
        found = await unless_gone(request, work)
        return list(found.values), sum(found.n_tokens)

    async def _by_embeddings(
        self, request: Request, engine: Engine, pairs: Sequence[tuple[str, str]]
    ) -> tuple[list[float], int]:
        """Cosines between the embeddings of each pair; each text is embedded once."""
        if "embed" not in engine.info.abilities:
            raise UsageError("This model can neither score nor embed.", param="model")
        places = {text: i for i, text in enumerate(dict.fromkeys(t for p in pairs for t in p))}
        found = await self._worker.embedded(request, engine, list(places))
        vectors = np.asarray(found.vectors, dtype=np.float64)
        firsts = vectors[[places[first] for first, _ in pairs]]
        seconds = vectors[[places[second] for _, second in pairs]]
        return (firsts * seconds).sum(axis=1).tolist(), sum(found.n_tokens)


def _head(prefix: str, model: str) -> ReplyHead:
    return ReplyHead(id=new_id(prefix), object="list", model=model, fingerprint="")
