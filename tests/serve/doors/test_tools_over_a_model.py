"""Messages and responses over the slot engine and a random model that is held to its tools."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from live import serving
from scripted_chat import gateway_to

from fastchat.engine.choose import EngineSettings, open_engine
from fastchat.model.load import ModelSettings
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings
from tests.engine.conftest import config_of, make_tokenizer

pytestmark = pytest.mark.slow

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }} <tool_call></tool_call>{% endif %}"
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
)


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """A gateway in front of the model `m`."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    config = config_of("llama")
    config.max_position_embeddings = 1024
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    engine = await open_engine(
        ModelSettings(model_path=str(tmp_path), device="cpu", num_threads=1),
        EngineSettings(max_running=8, max_cached_tokens=8192),
    )
    try:
        app = Worker({"m": engine}, WorkerSettings()).app
        async with serving(app) as inner, gateway_to(inner) as address:
            yield address
    finally:
        await engine.stop(0.0)


async def test_a_tool_is_called_and_answered_in_anthropics_words(url: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as client:
        asked: dict[str, Any] = {
            "model": "m",
            "max_tokens": 200,
            "tools": [{"name": "weather", "input_schema": SCHEMA}],
        }
        question: Any = {"role": "user", "content": "Weather?"}
        message = await client.messages.create(
            **asked, messages=[question], tool_choice={"type": "tool", "name": "weather"}
        )
        (call,) = message.content
        assert (call.type, call.name, message.stop_reason) == ("tool_use", "weather", "tool_use")
        assert call.input["city"] in ("Rome", "Oslo")
        async with client.messages.stream(
            **asked, messages=[question], tool_choice={"type": "any"}
        ) as stream:
            streamed = await stream.get_final_message()
        assert streamed.content[0].input["city"] in ("Rome", "Oslo")
        result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "sun"}
        dialogue: Any = [
            question,
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": [result]},
        ]
        counted = await client.messages.count_tokens(
            model="m", messages=dialogue, tools=asked["tools"]
        )
        after = await client.messages.create(**asked | {"max_tokens": 4}, messages=dialogue)
        assert after.usage.output_tokens <= 4
        cached = after.usage.cache_read_input_tokens or 0
        assert counted.input_tokens == after.usage.input_tokens + cached


async def test_a_tool_is_called_and_answered_by_responses(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        tool: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
        first = await client.responses.create(
            model="m", input="Weather?", tools=[tool], tool_choice="required", max_output_tokens=200
        )
        (call, *_) = first.output
        assert call.type == "function_call"
        assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")
        second = await client.responses.create(
            model="m",
            previous_response_id=first.id,
            input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sun"}],
            text={"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
            max_output_tokens=200,
        )
        assert json.loads(second.output_text)["city"] in ("Rome", "Oslo")
