"""Bodies of OpenAI's Responses API, and what they say in the words of a chat.

Pure translation: input becomes items with ids, items become the messages of a chat. Tools that
run at OpenAI and fields that would change the answer are refused by name.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
    model_validator,
)

from fastchat.errors import UsageError
from fastchat.protocol.inner_fields import RESPONSES
from fastchat.protocol.openai_api import MAX_MESSAGES, MAX_NEW_TOKENS, MAX_PARTS, Body, refuse

Item = dict[str, Any]

MAX_TOOLS = 512
ROLES = ("user", "assistant", "system", "developer")
INCLUDABLE = frozenset({"message.output_text.logprobs", "reasoning.encrypted_content"})
"""What `include` may name; reasoning is never encrypted, so the second adds nothing."""


def _items(value: Any) -> Any:
    """A text, or a list of items, as a list of items."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise refuse("must be a text or a list of items")
    if not value or len(value) > MAX_MESSAGES:
        raise refuse(f"must hold from 1 to {MAX_MESSAGES} items")
    return value


Items = Annotated[
    list[Item],
    BeforeValidator(_items),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {"type": "object"},
                    "minItems": 1,
                    "maxItems": MAX_MESSAGES,
                },
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


class TextFormat(Part):
    """The form of the answer's text."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Annotated[str, Field(max_length=64)] | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None
    description: str | None = None

    @model_validator(mode="after")
    def _schema_is_there(self) -> "TextFormat":
        if self.type == "json_schema" and (self.schema_ is None or self.name is None):
            raise refuse("of type `json_schema` needs `name` and `schema`", param="text.format")
        return self


class TextConfig(Part):
    """How the text is to be."""

    format: TextFormat = TextFormat()
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Part):
    """How much the model is to think. It is shown whole, so a summary is not made."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(Part):
    """No effect: nothing is obfuscated."""

    include_obfuscation: bool = False


class ResponsesRequest(Body):
    """`POST /v1/responses`."""

    not_built: ClassVar[dict[str, str]] = {
        "conversation": "use `previous_response_id`",
        "prompt": "send the prompt's text as `instructions`",
        "context_management": "shorten the input in your client",
        "moderation": "moderate in your client",
    }
    quiet: ClassVar[frozenset[str]] = frozenset(
        {
            "access_programs",
            "image",
            "max_tool_calls",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "safety_identifier",
            "service_tier",
            "stream_options",
            "user",
        }
    )

    inner = RESPONSES

    input: Items
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    store: bool = True
    background: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    text: TextConfig = TextConfig()
    reasoning: Reasoning | None = None
    tools: list[dict[str, Any]] = Field(default_factory=list, max_length=MAX_TOOLS)
    tool_choice: JsonValue = "auto"
    parallel_tool_calls: bool = True
    include: list[str] = Field(default_factory=list, max_length=16)
    metadata: dict[str, str] = Field(default_factory=dict, max_length=16)
    truncation: Literal["auto", "disabled"] = "disabled"
    user: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "ResponsesRequest":
        if self.truncation == "auto":
            raise refuse("`auto` is not supported: shorten the input", param="truncation")
        for name in self.include:
            if name not in INCLUDABLE:
                raise refuse(f"names {name[:80]!r}, which is not made here", param="include")
        if self.background and not self.store:
            raise refuse("needs `store` to be true", param="background")
        if self.background and self.stream:
            raise refuse("cannot be streamed; ask for its state", param="background")
        return self

    @property
    def wants_logprobs(self) -> bool:
        return "message.output_text.logprobs" in self.include or bool(self.top_logprobs)


def new_id(prefix: str) -> str:
    """An id nobody can guess."""
    return f"{prefix}_{secrets.token_hex(24)}"


def input_items(request: ResponsesRequest) -> list[Item]:
    """The items of a request's input, each with an id, contents as lists of parts."""
    found: list[Item] = []
    for i, item in enumerate(request.input):
        kind = item.get("type", "message")
        checked = {name: value for name, value in item.items() if value is not None}
        checked |= {"type": kind, "id": item.get("id") or new_id(_PREFIXES.get(kind, "item"))}
        if kind == "message":
            content = item.get("content")
            if isinstance(content, str):
                is_answer = item.get("role") == "assistant"
                part = {"type": "output_text" if is_answer else "input_text", "text": content}
                checked["content"] = [part | ({"annotations": []} if is_answer else {})]
            checked.setdefault("status", "completed")
        found.append(checked)
        list(_messages([checked], place=f"input[{i}]"))  # says now what is wrong
    return found


_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


def chat_body(request: ResponsesRequest, items: Sequence[Item]) -> dict[str, Any]:
    """The body of the chat request that asks for the same answer.

    Args:
        items: the whole conversation: of earlier responses, then of this request.

    Raises:
        UsageError: a tool or an item has no counterpart in a chat.
    """
    body: dict[str, Any] = prompt_body(request, items) | {"stream": request.stream}
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    optional = {
        "max_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
        "verbosity": request.text.verbosity,
        "user": request.user,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    if request.wants_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    if (form := request.text.format).type != "text":
        body["response_format"] = _response_format(form)
    return body


def prompt_body(request: ResponsesRequest, items: Sequence[Item]) -> dict[str, Any]:
    """The part of a chat's body that the prompt is made of: messages, tools and their choice."""
    messages = list(_messages(items, place="input"))
    if request.instructions:
        messages.insert(0, {"role": "system", "content": request.instructions})
    return {"model": request.model, "messages": messages, **_tools(request)}


def _response_format(form: TextFormat) -> dict[str, Any]:
    if form.type == "json_object":
        return {"type": "json_object"}
    schema = {"name": form.name, "schema": form.schema_}
    optional = {"strict": form.strict, "description": form.description}
    schema |= {name: value for name, value in optional.items() if value is not None}
    return {"type": "json_schema", "json_schema": schema}


# ---- tools


def _tools(request: ResponsesRequest) -> dict[str, Any]:
    """Tools and their choice in the chat's form."""
    tools = {name: tool for name, tool in map(_tool, range(len(request.tools)), request.tools)}
    if len(tools) < len(request.tools):
        raise UsageError("`tools` must have different names.", param="tools")
    choice = request.tool_choice
    if isinstance(choice, dict):
        kind, name = choice.get("type"), choice.get("name")
        if kind == "allowed_tools":
            allowed = choice.get("tools")
            names = [t.get("name") for t in allowed or () if isinstance(t, dict)]  # type: ignore[union-attr]
            if not names or not set(names) <= tools.keys():
                raise UsageError(
                    "`tool_choice.tools` must name some of `tools`.", param="tool_choice"
                )
            tools = {name: tools[name] for name in tools if name in names}
            choice = choice.get("mode", "auto")
        elif kind == "function" and name in tools:
            choice = {"type": "function", "function": {"name": name}}
        else:
            raise UsageError(
                '`tool_choice` must name one of `tools`, as {"type": "function", "name": …}.',
                param="tool_choice",
            )
    if isinstance(choice, dict) or choice in ("auto", "none", "required"):
        if not tools:
            if choice == "required":
                raise UsageError("`tool_choice` needs `tools`.", param="tool_choice")
            return {}
        quiet = {} if request.parallel_tool_calls else {"parallel_tool_calls": False}
        return {"tools": list(tools.values()), "tool_choice": choice, **quiet}
    raise UsageError(
        "`tool_choice` must be `none`, `auto`, `required` or a function.", param="tool_choice"
    )


def _tool(place: int, tool: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    kind, name = tool.get("type"), tool.get("name")
    if kind != "function":
        shown = repr(kind[:40]) if isinstance(kind, str) else "none"
        raise UsageError(
            f"`tools[{place}]` is of type {shown}; only tools of type `function`, which your "
            "client runs, are known here.",
            param=f"tools[{place}].type",
        )
    if not isinstance(name, str) or not 1 <= len(name) <= 128:
        raise UsageError(f"`tools[{place}].name` must be a name.", param=f"tools[{place}].name")
    known = ("name", "description", "parameters", "strict")
    function = {key: tool[key] for key in known if tool.get(key) is not None}
    if not isinstance(function.get("parameters", {}), dict):
        raise UsageError(
            f"`tools[{place}].parameters` must be a JSON schema.",
            param=f"tools[{place}].parameters",
        )
    return name, {"type": "function", "function": function}


# ---- items


def _messages(items: Iterable[Item], *, place: str) -> Iterator[dict[str, Any]]:
    """The chat messages of items; what the assistant did in a row is one message."""
    mine: dict[str, Any] | None = None
    pictures: list[dict[str, Any]] = []
    for item in items:
        kind = item.get("type", "message")
        is_mine = kind in ("reasoning", "function_call") or (
            kind == "message" and item.get("role") == "assistant"
        )
        if pictures and kind != "function_call_output":
            yield {"role": "user", "content": pictures}
            pictures = []
        if mine is not None and not (is_mine and _continues(mine, kind)):
            yield mine
            mine = None
        if is_mine:
            mine = mine or {"role": "assistant", "content": None}
            _extend(mine, item, kind, place)
        elif kind == "message":
            yield _said(item, place)
        elif kind == "function_call_output":
            message, more = _output(item, place)
            yield message
            pictures += more
        else:
            raise UsageError(
                f"`{place}` holds an item of type {str(kind)[:40]!r}, which is not known here.",
                param=place,
            )
    if pictures:
        yield {"role": "user", "content": pictures}
    if mine is not None:
        yield mine


def _continues(mine: dict[str, Any], kind: str) -> bool:
    """Whether one more item belongs to the same message of the assistant."""
    if kind == "function_call":
        return True
    return mine["content"] is None and "tool_calls" not in mine


def _extend(mine: dict[str, Any], item: Item, kind: str, place: str) -> None:
    match kind:
        case "reasoning":
            parts = [*(item.get("content") or ()), *(item.get("summary") or ())]
            texts = [part.get("text") for part in parts if isinstance(part, dict)]
            if not all(isinstance(text, str) for text in texts):
                raise UsageError(f"`{place}` has reasoning whose `text` is no text.", param=place)
            before = mine.get("reasoning_content", "")
            mine["reasoning_content"] = before + "\n".join(map(str, texts))
        case "function_call":
            names = ("call_id", "name", "arguments")
            call_id, name, arguments = (_string(item, key, place) for key in names)
            function = {"name": name, "arguments": arguments}
            call = {"id": call_id, "type": "function", "function": function}
            mine.setdefault("tool_calls", []).append(call)
        case _:
            mine["content"] = "\n".join(
                part["text"] for part in _parts(item.get("content"), place, pictures=False)
            )


def _said(item: Item, place: str) -> dict[str, Any]:
    """The chat message of a user's, developer's or system's item."""
    role = item.get("role")
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise UsageError(f"`{place}` has an unknown `role`; use one of {known}.", param=place)
    parts = _parts(item.get("content"), place, pictures=role == "user")
    if all(part["type"] == "text" for part in parts):
        return {"role": role, "content": "\n".join(part["text"] for part in parts)}
    return {"role": role, "content": parts}


def _output(item: Item, place: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The chat message of a tool's output, and its pictures, which such a message cannot hold."""
    parts = _parts(item.get("output"), place, pictures=True)
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    call_id = _string(item, "call_id", place)
    pictures = [part for part in parts if part["type"] != "text"]
    return {"role": "tool", "tool_call_id": call_id, "content": text}, pictures


def _parts(content: Any, place: str, *, pictures: bool) -> list[dict[str, Any]]:
    """Content as parts of a chat message."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or len(content) > MAX_PARTS:
        raise UsageError(
            f"`{place}` needs a text, or a list of at most {MAX_PARTS} parts, as its content.",
            param=place,
        )
    found: list[dict[str, Any]] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_text", "output_text", "text", "reasoning_text", "summary_text"):
            found.append({"type": "text", "text": _string(part, "text", place)})
        elif kind == "refusal":
            found.append({"type": "text", "text": _string(part, "refusal", place)})
        elif kind == "input_image" and pictures and isinstance(part.get("image_url"), str):
            image = {"url": part["image_url"]}
            if isinstance(part.get("detail"), str):
                image["detail"] = part["detail"]
            found.append({"type": "image_url", "image_url": image})
        else:
            shown = repr(kind[:40]) if isinstance(kind, str) else "none"
            raise UsageError(
                f"`{place}` has a part of type {shown}, which is not supported there; use "
                "`input_text`, or `input_image` with an `image_url` in a message of the user.",
                param=place,
            )
    return found


def _string(value: dict[str, Any], name: str, place: str) -> str:
    text = value.get(name)
    if not isinstance(text, str):
        raise UsageError(f"`{place}` needs `{name}` to be a text.", param=place)
    return text
