from typing import Any

import aiohttp
import openai
import pytest
from live import serving
from scripted_chat import ScriptedChat, echo_gateway, gateway_to
from starlette.responses import JSONResponse

from fastchat.errors import UsageError
from fastchat.serve.openai_api_server import GatewaySettings


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/engines/echo/embeddings"])
async def test_pieces_join_to_what_one_call_gives(path: str) -> None:
    texts = ["a", "bb", "ccc", "dddd", "eeeee"]
    replies: list[Any] = []
    for size in (None, 2):
        async with (
            echo_gateway(embedding_batch_size=size) as url,
            aiohttp.ClientSession() as session,
        ):
            for body in ({"input": texts}, {"input": [[97], [98, 98], [99]]}, {"input": [1, 2, 3]}):
                body |= {} if "engines" in path else {"model": "echo"}
                async with session.post(url + path, json=body) as reply:
                    assert reply.status == 200
                    replies.append(await reply.json())
    assert replies[:3] == replies[3:]
    assert [entry["index"] for entry in replies[0]["data"]] == [0, 1, 2, 3, 4]


async def test_the_published_variable_says_how_many_texts_a_call_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fastchat.settings import parse

    monkeypatch.setenv("FASTCHAT_WORKER_API_EMBEDDING_BATCH_SIZE", "1")
    size = parse(GatewaySettings, []).embedding_batch_size
    assert size == 1
    with pytest.raises(UsageError):
        GatewaySettings(embedding_batch_size=0)
    chat = ScriptedChat()
    asked: list[Any] = []

    async def answer(request: Any) -> JSONResponse:
        body = await request.json()
        asked.append(body["input"])
        if body["input"] == ["bad"]:
            return JSONResponse({"error": {"message": "no", "code": "invalid_request"}}, 400)
        entry = {"object": "embedding", "index": 0, "embedding": [1.0]}
        return JSONResponse({"object": "list", "model": "m", "data": [entry]})

    chat.app.add_route("/v1/embeddings", answer, methods=["POST"])
    async with serving(chat.app) as inner, gateway_to(inner, embedding_batch_size=size) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        reply = await client.embeddings.create(
            model="m", input=["x", "y", "z"], encoding_format="float"
        )
        assert [entry.index for entry in reply.data] == [0, 1, 2]
        assert sorted(asked) == [["x"], ["y"], ["z"]]
        with pytest.raises(openai.BadRequestError, match="no"):
            await client.embeddings.create(model="m", input=["x", "bad"])
        await client.close()
