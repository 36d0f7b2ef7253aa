"""Talks to a server through LlamaIndex as its documents show; prints what came as JSON.

Run with LlamaIndex's own environment: python talk.py http://127.0.0.1:8000 vicuna-tiny
"""

import asyncio
import json
import sys
from typing import Literal

from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

URL, MODEL = sys.argv[1:]
LLM = OpenAILike(
    model=MODEL,
    api_base=f"{URL}/v1",
    api_key="none",
    context_window=1024,
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
    temperature=0,
    max_tokens=60,
)
EMBEDDER = OpenAILikeEmbedding(model_name=MODEL, api_base=f"{URL}/v1", api_key="none")
WHO = [ChatMessage(role="user", content="Who are you?")]


class Verdict(BaseModel):
    """Whether something is good."""

    is_good: bool


def weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather of a city."""
    return f"sun in {city}"


def call() -> str:
    tool = FunctionTool.from_defaults(fn=weather)
    answer = LLM.chat_with_tools([tool], user_msg="Weather in Rome?", tool_required=True)
    (made,) = LLM.get_tool_calls_from_response(answer)[:1]
    return tool.call(**made.tool_kwargs).content


def form() -> bool:
    answer = LLM.as_structured_llm(Verdict).chat(WHO)
    return isinstance(answer.raw, Verdict)


def completion() -> str:
    return (
        OpenAILike(
            model=MODEL, api_base=f"{URL}/v1", api_key="none", is_chat_model=False, max_tokens=4
        )
        .complete("One, two,")
        .text
    )


def retrieval() -> list[str]:
    """An index of three texts over our embeddings, asked for the nearest to one of them."""
    Settings.llm, Settings.embed_model = LLM, EMBEDDER
    texts = ["What is 12 + 7?", "Tell me a joke.", "Who are you?"]
    index = VectorStoreIndex.from_documents([Document(text=text) for text in texts])
    found = index.as_retriever(similarity_top_k=2).retrieve("Who are you?")
    return [node.text for node in found]


async def side_by_side() -> list[str]:
    asked = [LLM.acomplete("Who are you?") for _ in range(3)]
    return [answer.text for answer in await asyncio.gather(*asked)]


print(
    json.dumps(
        {
            "chat": LLM.chat(WHO).message.content,
            "stream": "".join(piece.delta or "" for piece in LLM.stream_chat(WHO)),
            "side_by_side": asyncio.run(side_by_side()),
            "call": call(),
            "form": form(),
            "completion": completion(),
            "embedding": len(EMBEDDER.get_text_embedding("red")),
            "retrieval": retrieval(),
        }
    )
)
