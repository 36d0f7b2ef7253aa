"""Bodies of Anthropic's Messages API, and what they say in the words of a chat.

Pure translation: a checked `MessagesRequest` becomes the body of a chat request. What has no
counterpart in a chat is refused by name; what may be left out without changing the answer
(cache marks, a thinking budget) is accepted and named in docs/api.md.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from fastchat.errors import UsageError
from fastchat.protocol.inner_fields import ANTHROPIC
from fastchat.protocol.openai_api import (
    MAX_MESSAGES,
    MAX_NEW_TOKENS,
    MAX_PARTS,
    MAX_STOPS,
    Body,
    StopText,
    refuse,
)

MAX_TOOLS = 512

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's words for statuses; all others are `api_error`."""


def _blocks(value: Any) -> Any:
    """A text, or a list of content blocks, as a list of content blocks."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list) or len(value) > MAX_PARTS:
        raise refuse(f"must be a text, or a list of at most {MAX_PARTS} content blocks")
    if not all(isinstance(block, dict) and isinstance(block.get("type"), str) for block in value):
        raise refuse("must hold content blocks, objects with a `type`")
    return value


_BLOCK_SCHEMA = {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]}
Blocks = Annotated[
    list[dict[str, Any]],
    BeforeValidator(_blocks),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": _BLOCK_SCHEMA, "maxItems": MAX_PARTS},
            ]
        }
    ),
]


class Part(BaseModel):
    """What the parts of a body share. A field that is null counts as absent."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if type(value) is dict else value


class Turn(Part):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: Blocks


class Tool(Part):
    """A tool that the client runs."""

    type: str = "custom"
    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    input_schema: dict[str, Any] = {"type": "object"}
    strict: bool | None = None


class ToolChoice(Part):
    """Whether, and which, tools are to be used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Part):
    """Whether the model shows its thinking; a budget has no effect."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Field(ge=0)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Part):
    """The JSON schema of the answer."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Part):
    """Effort and format of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Metadata(Part):
    """About the request; no effect."""

    user_id: str | None = None


class CountTokensRequest(Body):
    """`POST /v1/messages/count_tokens`."""

    not_built: ClassVar[dict[str, str]] = {
        "container": "leave it out",
        "mcp_servers": "call the servers' tools from your client",
        "context_management": "shorten the messages in your client",
        "prefill": "end the messages with one of the assistant",
    }
    quiet: ClassVar[frozenset[str]] = frozenset(
        {
            "cache_control",
            "diagnostics",
            "inference_geo",
            "metadata",
            "service_tier",
            "speed",
            "user_profile_id",
            "workspace_id",
        }
    )

    inner = ANTHROPIC

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Blocks = Field(default_factory=list)
    tools: list[Tool] = Field(default_factory=list, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountTokensRequest):
    """`POST /v1/messages`."""

    max_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)]
    stop_sequences: list[StopText] = Field(default_factory=list, max_length=MAX_STOPS)
    stream: bool = False
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    metadata: Metadata | None = None

    @property
    def shows_thinking(self) -> bool:
        return self.thinking is None or (
            self.thinking.type != "disabled" and self.thinking.display != "omitted"
        )


def chat_body(request: MessagesRequest) -> dict[str, Any]:
    """The body of the chat request that asks for the same answer.

    Raises:
        UsageError: a part has no counterpart in a chat; its `param` names it.
    """
    body = prompt_body(request) | {"max_tokens": request.max_tokens, "stream": request.stream}
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    if request.stop_sequences:
        body["stop"] = request.stop_sequences
    for name in ("temperature", "top_p", "top_k"):
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if body.get("top_k") == 0:
        del body["top_k"]
    if request.metadata and request.metadata.user_id:
        body["user"] = request.metadata.user_id
    if config := request.output_config:
        body |= _output(config)
    return body


def prompt_body(request: CountTokensRequest) -> dict[str, Any]:
    """The part of a chat's body that the prompt is made of: messages, tools and their choice.

    Raises:
        UsageError: a part has no counterpart in a chat.
    """
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": _texts(request.system, "system")})
    for i, turn in enumerate(request.messages):
        place = f"messages[{i}].content"
        match turn.role:
            case "system":
                messages.append({"role": "system", "content": _texts(turn.content, place)})
            case "assistant":
                messages.append(_assistant(turn.content, place))
            case _:
                messages += _user(turn.content, place)
    body: dict[str, Any] = {"model": request.model, "messages": messages}
    if request.messages[-1].role == "assistant":
        body |= _continued(messages[-1])
    if request.tools:
        body["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools)]
    if request.thinking is not None and request.thinking.type == "disabled":
        body["chat_template_kwargs"] = {"enable_thinking": False}
    if choice := request.tool_choice:
        body |= _tool_choice(choice, {tool.name for tool in request.tools})
    return body


def _texts(blocks: list[dict[str, Any]], place: str) -> str:
    """The text of blocks that may be text only."""
    for j, block in enumerate(blocks):
        if block["type"] != "text":
            raise _unknown(block, f"{place}[{j}]")
    return "\n".join(_text(block, f"{place}[{j}]") for j, block in enumerate(blocks))


def _user(blocks: list[dict[str, Any]], place: str) -> Iterator[dict[str, Any]]:
    """The chat messages of one turn of the user: results of tools first, then what was said."""
    said: list[dict[str, Any]] = []
    for j, block in enumerate(blocks):
        where = f"{place}[{j}]"
        if block["type"] == "tool_result":
            message, pictures = _result(block, where)
            yield message
            said += pictures
        else:
            said.append(_part(block, where))
    if not said and blocks:
        return
    if all(part["type"] == "text" for part in said):
        yield {"role": "user", "content": "\n".join(part["text"] for part in said)}
    else:
        yield {"role": "user", "content": said}


def _result(block: dict[str, Any], place: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The chat message of a tool's result, and its pictures, which such a message cannot hold."""
    try:
        inner = _blocks("" if block.get("content") is None else block["content"])
    except Exception:
        raise UsageError(
            f"`{place}.content` must be a text or a list of content blocks.", param=place
        ) from None
    parts = [_part(part, f"{place}.content[{k}]") for k, part in enumerate(inner)]
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    if block.get("is_error"):
        text = f"Error: {text}"
    call = _string(block, "tool_use_id", place)
    pictures = [part for part in parts if part["type"] != "text"]
    return {"role": "tool", "tool_call_id": call, "content": text}, pictures


def _part(block: dict[str, Any], place: str) -> dict[str, Any]:
    """A text or picture of the user as a content part of a chat."""
    if block["type"] == "text":
        return {"type": "text", "text": _text(block, place)}
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    if block["type"] == "image" and isinstance(source, dict):
        if kind == "base64":
            media, data = _string(source, "media_type", place), _string(source, "data", place)
            return {"type": "image_url", "image_url": {"url": f"data:{media};base64,{data}"}}
        if kind == "url":
            return {"type": "image_url", "image_url": {"url": _string(source, "url", place)}}
    if block["type"] == "document" and isinstance(source, dict) and kind == "text":
        title = f"{block['title']}\n" if isinstance(block.get("title"), str) else ""
        return {"type": "text", "text": title + _string(source, "data", place)}
    raise _unknown(block, place)


def _assistant(blocks: list[dict[str, Any]], place: str) -> dict[str, Any]:
    """The chat message of one turn of the assistant."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for j, block in enumerate(blocks):
        where = f"{place}[{j}]"
        match block["type"]:
            case "text":
                texts.append(_text(block, where))
            case "thinking":
                thoughts.append(_string(block, "thinking", where))
            case "redacted_thinking":
                pass  # nothing that could be read
            case "tool_use":
                calls.append(_call(block, where))
            case _:
                raise _unknown(block, where)
    message: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts)}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
        message["content"] = message["content"] or None
    return message


def _continued(last: dict[str, Any]) -> dict[str, Any]:
    """The fields by which the answer goes on with a last message of the assistant (prefill)."""
    if last.get("tool_calls") or not last["content"]:
        raise UsageError(
            "A last message of the assistant (prefill) must be a text, and call no tools.",
            param="messages",
        )
    return {"continue_final_message": True, "add_generation_prompt": False}


def _call(block: dict[str, Any], place: str) -> dict[str, Any]:
    if not isinstance(block.get("input", {}), dict):
        raise UsageError(f"`{place}.input` must be an object.", param=f"{place}.input")
    arguments = json.dumps(block.get("input", {}), ensure_ascii=False)
    function = {"name": _string(block, "name", place), "arguments": arguments}
    return {"id": _string(block, "id", place), "type": "function", "function": function}


def _tool(tool: Tool, place: str) -> dict[str, Any]:
    if tool.type != "custom":
        raise UsageError(
            f"`{place}` is of type {tool.type[:40]!r}, which runs at Anthropic; only tools of "
            "your own (type `custom`) are known here.",
            param=f"{place}.type",
        )
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice, names: set[str]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if choice.type == "tool":
        if choice.name not in names:
            raise UsageError(
                "`tool_choice.name` must be the name of one of `tools`.", param="tool_choice.name"
            )
        body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif names or choice.type == "any":
        body["tool_choice"] = {"auto": "auto", "any": "required", "none": "none"}[choice.type]
    if choice.disable_parallel_tool_use and names:
        body["parallel_tool_calls"] = False
    return body


def _output(config: OutputConfig) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if config.effort is not None:
        body["reasoning_effort"] = config.effort
    if config.format is not None:
        schema = {"name": "answer", "schema": config.format.schema_, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _text(block: dict[str, Any], place: str) -> str:
    return _string(block, "text", place)


def _string(block: dict[str, Any], name: str, place: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise UsageError(f"`{place}.{name}` must be a text.", param=f"{place}.{name}")
    return value


def _unknown(block: dict[str, Any], place: str) -> UsageError:
    source = block.get("source")
    kind = f" from a source of type {source.get('type')!r}" if isinstance(source, dict) else ""
    return UsageError(
        f"`{place}` is a block of type {block['type'][:40]!r}{kind[:80]}, which is not supported "
        "here.",
        param=place,
    )
