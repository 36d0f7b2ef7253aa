"""Fields inside of fields: which of them are known, so that no other is ignored in silence."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_EMPTY = (None, False, "", [], {})
"""What asks for nothing: clients send replies back with all of their empty fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The fields that an object may have; of a list, those of each of its objects."""

    known: "Mapping[str, Shape | None]" = field(default_factory=dict)
    """By name, with the shape of what they hold; None where anything may stand."""
    by_type: "Mapping[str, Shape]" = field(default_factory=dict)
    """Where the fields depend on the object's `type`; others are refused elsewhere."""
    usual_type: str = ""
    """The `type` of objects that have none."""


def shape(*names: str, **inner: Shape) -> Shape:
    """A shape with plain fields and with fields that have a shape of their own."""
    return Shape(known={**dict.fromkeys(names), **inner})


def unknown_inside(value: Any, known: Shape, path: str) -> Iterator[str]:
    """The paths of fields in `value` that are not known and hold something."""
    if isinstance(value, list):
        for item in value:
            yield from unknown_inside(item, known, path)
        return
    if not isinstance(value, dict):
        return
    if known.by_type:
        kind = value.get("type", known.usual_type)
        found = known.by_type.get(kind) if isinstance(kind, str) else None
        if found is None:
            return
        known = found
    for name, inner in value.items():
        if name not in known.known:
            if inner not in _EMPTY:
                yield f"{path}.{name}"
        elif (below := known.known[name]) is not None:
            yield from unknown_inside(inner, below, f"{path}.{name}")


# ---- OpenAI's chats and completions

_TOOL = shape("name", "description", "parameters", "strict")
_PARTS = Shape(
    by_type={
        "text": shape("type", "text"),
        "input_text": shape("type", "text"),
        "refusal": shape("type", "refusal"),
        "image_url": shape("type", image_url=shape("url", "detail")),
    }
)
MESSAGES = shape(
    *("role", "name", "tool_call_id", "reasoning", "reasoning_content", "function_call", "audio"),
    content=_PARTS,
    tool_calls=shape("id", "type", "index", function=shape("name", "arguments")),
)
TOOLS = shape("type", function=_TOOL)
COMPLETION = {
    "response_format": shape("type", json_schema=shape("name", "description", "schema", "strict")),
    "stream_options": shape("include_usage", "include_obfuscation", "continuous_usage_stats"),
}
CHAT = COMPLETION | {
    "messages": MESSAGES,
    "tools": TOOLS,
    "tool_choice": shape(
        "type", "name", function=shape("name"), allowed_tools=shape("mode", tools=TOOLS)
    ),
}

# ---- OpenAI's responses

_TEXTS = shape("type", "text")
_CONTENT = Shape(
    by_type={
        "input_text": _TEXTS,
        "output_text": shape("type", "text", "annotations", "logprobs"),
        "refusal": shape("type", "refusal"),
        "input_image": shape("type", "image_url", "file_id", "detail"),
    }
)
_ITEMS = Shape(
    by_type={
        "message": shape("type", "id", "role", "status", content=_CONTENT),
        "reasoning": shape(
            *("type", "id", "status", "encrypted_content"), content=_TEXTS, summary=_TEXTS
        ),
        "function_call": shape("type", "id", "call_id", "name", "arguments", "status"),
        "function_call_output": shape("type", "id", "call_id", "status", output=_CONTENT),
    },
    usual_type="message",
)
RESPONSES = {
    "input": _ITEMS,
    "text": shape("verbosity", format=shape("type", "name", "schema", "strict", "description")),
    "reasoning": shape("effort", "summary", "generate_summary"),
    "tools": shape("type", "name", "description", "parameters", "strict"),
    "tool_choice": shape("type", "name", "mode", tools=shape("type", "name")),
    "stream_options": shape("include_obfuscation"),
}

# ---- Anthropic's messages

_SOURCE = shape("type", "media_type", "data", "url")
_RESULT = Shape(
    by_type={
        "text": shape("type", "text", "cache_control"),
        "image": shape("type", "cache_control", source=_SOURCE),
        "document": shape("type", "title", "cache_control", source=_SOURCE),
    }
)
_BLOCKS = Shape(
    by_type={
        **_RESULT.by_type,
        "tool_use": shape("type", "id", "name", "input", "cache_control"),
        "tool_result": shape(
            *("type", "tool_use_id", "is_error", "cache_control"), content=_RESULT
        ),
        "thinking": shape("type", "thinking", "signature"),
        "redacted_thinking": shape("type", "data"),
    }
)
ANTHROPIC = {
    "system": _BLOCKS,
    "messages": shape("role", content=_BLOCKS),
    "tools": shape("type", "name", "description", "input_schema", "strict", "cache_control"),
    "tool_choice": shape("type", "name", "disable_parallel_tool_use"),
    "thinking": shape("type", "budget_tokens", "display"),
    "output_config": shape("effort", format=shape("type", "schema")),
    "metadata": shape("user_id"),
}
