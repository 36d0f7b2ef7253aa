"""Talks to a server through litellm as its documents show; prints what came as JSON.

Run with litellm's own environment: python talk.py http://127.0.0.1:8000 vicuna-tiny
"""

import asyncio
import json
import sys

import litellm
from pydantic import BaseModel

URL, MODEL = sys.argv[1:]
SERVER = {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": "none"}
WHO = [{"role": "user", "content": "Who are you?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Verdict(BaseModel):
    is_good: bool


def chat() -> str:
    answer = litellm.completion(**SERVER, messages=WHO, temperature=0)
    assert answer.usage.total_tokens > 0
    return answer.choices[0].message.content


def stream() -> str:
    pieces = litellm.completion(**SERVER, messages=WHO, temperature=0, stream=True)
    return "".join(piece.choices[0].delta.content or "" for piece in pieces)


async def side_by_side() -> list[str]:
    asked = [litellm.acompletion(**SERVER, messages=WHO, temperature=0) for _ in range(3)]
    return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]


def call() -> dict[str, object]:
    asked = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    first = litellm.completion(**SERVER, messages=WHO, **asked)
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sun"}
    second = litellm.completion(
        **SERVER, messages=[*WHO, message, result], tools=[TOOL], tool_choice="none", max_tokens=20
    )
    assert second.choices[0].message.content
    return json.loads(message.tool_calls[0].function.arguments)


def form() -> bool:
    answer = litellm.completion(**SERVER, messages=WHO, response_format=Verdict)
    return Verdict.model_validate_json(answer.choices[0].message.content).is_good in (True, False)


def completion() -> str:
    server = SERVER | {"model": f"text-completion-openai/{MODEL}"}
    return litellm.text_completion(**server, prompt="One, two,", max_tokens=4).choices[0].text


def embedding() -> int:
    return len(litellm.embedding(**SERVER, input=["red", "blue"]).data)


def response() -> str:
    answer = litellm.responses(**SERVER, input="Who are you?", temperature=0)
    return answer.output[0].content[0].text


def messages() -> str:
    server = {"model": f"anthropic/{MODEL}", "api_base": URL, "api_key": "none"}
    answer = litellm.completion(**server, messages=WHO, temperature=0, max_tokens=60)
    return answer.choices[0].message.content


def unknown_model() -> str:
    try:
        litellm.completion(**SERVER | {"model": "openai/nobody"}, messages=WHO)
    except litellm.NotFoundError as error:
        return type(error).__name__
    return "no error"


print(
    json.dumps(
        {
            "chat": chat(),
            "stream": stream(),
            "side_by_side": asyncio.run(side_by_side()),
            "call": call(),
            "form": form(),
            "completion": completion(),
            "embedding": embedding(),
            "response": response(),
            "messages": messages(),
            "unknown_model": unknown_model(),
        }
    )
)
