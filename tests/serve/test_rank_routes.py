import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from live import serving
from scripted_chat import ScriptedChat, gateway_to
from starlette.responses import JSONResponse

from fastchat.engine.echo import EchoEngine
from fastchat.engine.scoring import Scores
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings

DOCUMENTS = ["zebra", "hello world", {"text": "hello"}]


class Scoring(EchoEngine):
    """An echo that scores a pair by the length of its second text."""

    def __init__(self) -> None:
        super().__init__()
        import dataclasses

        self.info = dataclasses.replace(self.info, abilities=frozenset({"score"}))

    async def score(self, pairs: list[tuple[str, str]]) -> Scores:
        values = tuple(len(second) / 100 for _, second in pairs)
        return Scores(values=values, n_tokens=tuple(3 for _ in pairs))


@contextlib.asynccontextmanager
async def platform() -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    worker = Worker({"echo": EchoEngine(), "cross": Scoring()}, WorkerSettings())
    async with (
        serving(worker.app) as inner,
        gateway_to(inner) as url,
        aiohttp.ClientSession() as session,
    ):
        yield url, session


async def post(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    async with session.post(url, json=body) as reply:
        return reply.status, await reply.json()


@pytest.mark.slow
async def test_documents_are_ranked_by_their_embeddings() -> None:
    body = {"model": "echo", "query": "hello", "documents": DOCUMENTS, "top_n": 2}
    async with platform() as (url, session):
        for path in ("/v1/rerank", "/rerank"):
            status, reply = await post(session, url + path, body)
            assert status == 200, reply
            first, second = reply["results"]
            assert (first["index"], first["document"]) == (2, {"text": "hello"})
            assert first["relevance_score"] == pytest.approx(1, abs=1e-5)
            assert second["relevance_score"] <= first["relevance_score"]
            # each text is embedded, and counted, once
            assert reply["usage"]["total_tokens"] == len("hello" + "zebra" + "hello world")
        _, reply = await post(session, url + "/v2/rerank", body)
        assert all("document" not in result for result in reply["results"])
        embedded = await post(
            session, url + "/v1/embeddings", {"model": "echo", "input": ["hello", "zebra"]}
        )
        hello, zebra = (entry["embedding"] for entry in embedded[1]["data"])
        _, reply = await post(
            session, url + "/v1/score", {"model": "echo", "text_1": "hello", "text_2": "zebra"}
        )
        cosine = sum(a * b for a, b in zip(hello, zebra, strict=True))
        assert reply["data"][0]["score"] == pytest.approx(cosine, abs=1e-6)


async def test_a_cross_encoder_scores_by_itself() -> None:
    async with platform() as (url, session):
        body: dict[str, Any] = {"model": "cross", "query": "q", "documents": DOCUMENTS}
        _, reply = await post(session, url + "/v1/rerank", body)
        assert [r["index"] for r in reply["results"]] == [1, 0, 2]
        assert reply["usage"]["total_tokens"] == 9
        for first, second in (("text_1", "text_2"), ("queries", "documents")):
            pairs = {"model": "cross", first: ["a", "b"], second: ["12", "1234"]}
            for path in ("/v1/score", "/score"):
                _, reply = await post(session, url + path, pairs)
                assert [entry["score"] for entry in reply["data"]] == [0.02, 0.04]
                assert [entry["index"] for entry in reply["data"]] == [0, 1]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/rerank", {"query": "q", "documents": []}, "documents"),
    ("/v1/rerank", {"query": "q", "documents": "x"}, "documents"),
    ("/v1/rerank", {"query": "q", "documents": [3]}, "documents"),
    ("/v1/rerank", {"query": "q", "documents": ["x" * 10, ""]}, "documents"),
    ("/v1/rerank", {"query": "", "documents": ["x"]}, "query"),
    ("/v1/rerank", {"documents": ["x"]}, "query"),
    ("/v1/rerank", {"query": "q", "documents": ["x"], "top_n": 0}, "top_n"),
    ("/v1/rerank", {"query": "q", "documents": ["x"], "rank_fields": ["a"]}, "rank_fields"),
    ("/v1/score", {"text_1": ["a", "b"], "text_2": "c"}, "text_1"),
    ("/v1/score", {"text_1": "a"}, "text_2"),
]


@pytest.mark.slow
async def test_what_cannot_be_ranked_is_refused_by_name() -> None:
    async with platform() as (url, session):
        for path, fields, named in WRONG:
            status, reply = await post(session, url + path, {"model": "echo", **fields})
            assert status == 400, (fields, reply)
            assert named in reply["error"]["message"]
            assert reply["error"]["param"] == named
        status, _ = await post(
            session, url + "/rerank", {"model": "no", "query": "q", "documents": ["x"]}
        )
        assert status == 404


@pytest.mark.slow
async def test_an_endpoint_without_these_routes_is_asked_for_embeddings() -> None:
    chat = ScriptedChat()
    asked: list[Any] = []

    async def embed(request: Any) -> JSONResponse:
        body = await request.json()
        asked.append(body["input"])
        vectors = {"q": [2.0, 0.0], "a": [0.0, 1.0], "b": [3.0, 3.0]}
        data = [{"index": i, "embedding": vectors[text]} for i, text in enumerate(body["input"])]
        return JSONResponse({"data": data[::-1], "usage": {"total_tokens": 9}})

    chat.app.add_route("/v1/embeddings", embed, methods=["POST"])
    async with (
        serving(chat.app) as inner,
        gateway_to(inner) as url,
        aiohttp.ClientSession() as session,
    ):
        body = {"model": "m", "query": "q", "documents": ["a", "b", "a"]}
        status, reply = await post(session, url + "/v1/rerank", body)
        assert status == 200, reply
        assert [result["index"] for result in reply["results"]] == [1, 0, 2]
        assert reply["results"][0]["relevance_score"] == pytest.approx(0.5**0.5)
        assert asked == [["q", "a", "b"]]
        async with session.post(url + "/v1/rerank", json=body | {"flavour": 1}) as told:
            assert told.headers["x-fastchat-ignored"] == "flavour"
        assert reply["usage"]["total_tokens"] == 9
        _, reply = await post(session, url + "/score", {"model": "m", "text_1": "q", "text_2": "b"})
        assert reply["data"][0]["score"] == pytest.approx(0.5**0.5)
        status, reply = await post(session, url + "/v1/rerank", {"model": "m", "query": "q"})
        assert (status, reply["error"]["param"]) == (400, "documents")
