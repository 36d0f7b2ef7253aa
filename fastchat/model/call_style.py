"""In which shape a chat template reads the calls of earlier answers: found by trying."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastchat.errors import UsageError
from fastchat.message import Message, ToolCall

_SAMPLE = Message(
    role="assistant",
    text="",
    tool_calls=(ToolCall(id="abcdefghi", name="fetch_page", arguments='{"where": "at home"}'),),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStyle:
    """How an assistant's message with calls is told to a chat template."""

    has_objects: bool = True
    """Arguments are objects; some templates join them to a text, which they then must be."""
    omits_empty: bool = False
    """A message without text has no content; some templates look at its calls only then."""

    def fields(self, message: Message) -> dict[str, Any]:
        """The calls, and what they change of the message."""
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": _object(call.arguments) if self.has_objects else call.arguments,
                },
            }
            for call in message.tool_calls
        ]
        is_null = self.omits_empty and not message.text and not message.images
        return {"tool_calls": calls, **({"content": None} if is_null else {})}


def call_style(apply: Callable[[list[dict[str, Any]]], str]) -> CallStyle | None:
    """The first style in which a template writes a call out; None where it writes none.

    apply: the template. It raises UsageError for what it refuses.
    """
    for omits_empty in (False, True):
        for has_objects in (True, False):
            style = CallStyle(has_objects=has_objects, omits_empty=omits_empty)
            turns = [
                {"role": "user", "content": "Hello!"},
                {"role": "assistant", "content": "", **style.fields(_SAMPLE)},
            ]
            try:
                text = apply(turns)
            except UsageError:
                continue
            # An object that is printed as Python writes it is no JSON.
            if "fetch_page" in text and "at home" in text and "'at home'" not in text:
                return style
    return None


def _object(text: str) -> Any:
    """The object that templates want; the text as it is where a model wrote none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
