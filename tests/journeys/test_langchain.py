"""LangChain's OpenAI package against a whole platform: agents' parts, forms, embeddings."""

from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from real_processes import Platform

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("platform")]

MODEL = "vicuna-tiny"
WHO = "Who are you?"


class Verdict(BaseModel):
    """Whether something is good."""

    is_good: bool


@tool
def weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather of a city."""
    return f"sun in {city}"


@pytest.fixture
def told(platform: Platform) -> Iterator[dict[str, Any]]:
    """What each of the package's classes is told; connections are closed at the end."""
    with openai.DefaultHttpxClient() as http_client:
        yield {
            "base_url": f"{platform.gateway_url}/v1",
            "api_key": "none",
            "model": MODEL,
            "http_client": http_client,
            "max_retries": 0,
        }


@pytest.fixture
def chat(told: dict[str, Any]) -> ChatOpenAI:
    return ChatOpenAI(**told, temperature=0)


def test_a_chat_is_asked_streamed_and_batched(chat: ChatOpenAI) -> None:
    whole = chat.invoke(WHO)
    assert "vicuna" in str(whole.content).lower()
    assert whole.usage_metadata and whole.usage_metadata["output_tokens"] > 0
    pieces = list(chat.stream(WHO, stream_usage=True))
    assert "".join(str(piece.content) for piece in pieces) == whole.content
    assert any(piece.usage_metadata for piece in pieces)
    assert [answer.content for answer in chat.batch([WHO, WHO])] == [whole.content] * 2


def test_a_tool_is_called_and_its_result_read(chat: ChatOpenAI) -> None:
    bound = chat.bind_tools([weather], tool_choice="required", parallel_tool_calls=False)
    asked = HumanMessage("Weather in Rome?")
    answer = bound.invoke([asked])
    (call,) = answer.tool_calls
    result = weather.invoke(call)
    assert isinstance(result, ToolMessage) and str(result.content).startswith("sun in ")
    last = chat.bind_tools([weather], tool_choice="none").invoke(
        [asked, answer, result], max_tokens=20
    )
    assert last.content and not last.tool_calls
    whole = None
    for piece in bound.stream([asked]):
        whole = piece if whole is None else whole + piece
    assert whole is not None and whole.tool_calls[0]["args"]["city"] in ("Rome", "Oslo")


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_the_callers_own_type(chat: ChatOpenAI, method: str) -> None:
    asker = chat.with_structured_output(Verdict, method=method)  # type: ignore[arg-type]
    assert isinstance(asker.invoke("Is it good?"), Verdict)


def test_the_responses_door_answers_too(chat: ChatOpenAI) -> None:
    answer = chat.model_copy(update={"use_responses_api": True}).invoke(WHO)
    assert "vicuna" in str(answer.text).lower()


def test_completions_go_on(told: dict[str, Any]) -> None:
    assert OpenAI(**told, max_tokens=4).invoke("One, two,")


def test_texts_are_found_again_by_their_embeddings(told: dict[str, Any]) -> None:
    """With `check_embedding_ctx_length` the client sends token ids of OpenAI's tokenizer."""
    embeddings = OpenAIEmbeddings(**told, check_embedding_ctx_length=False)
    store = InMemoryVectorStore.from_texts(["What is 12 + 7?", "Tell me a joke.", WHO], embeddings)
    assert store.similarity_search(WHO, k=1)[0].page_content == WHO
