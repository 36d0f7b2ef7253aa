"""Messages of a chat as they come: roles, content parts, calls of tools and their results."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fastchat.message import Message, Role, Slot
from fastchat.protocol.openai_tools import MAX_CALLS, WireCall
from fastchat.protocol.validation import refuse

MAX_PARTS = 1024

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}

_NOT_READ = {"function_call": "use `tool_calls`", "audio": "send text"}
"""Fields of a message that would change what the model is told, with what to do instead."""


class ChatMessage(BaseModel):
    """One message of the wire."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: Role
    content: str = ""
    images: list[str] = []
    parts: list[str | int] = []
    """Texts and numbers of pictures, where there are pictures."""
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[WireCall], Field(max_length=MAX_CALLS)] = []
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    reasoning: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_wire(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise refuse("must be an object with `role` and `content`")
        role = value.get("role")
        if not isinstance(role, str) or role not in ROLES:
            known = ", ".join(ROLES)
            given = repr(role[:40]) if isinstance(role, str) else "no text"
            raise refuse(f"has {given} as its `role`; it must be one of {known}")
        for name, remedy in _NOT_READ.items():
            if value.get(name):
                raise refuse(f"has `{name}`, which is not supported; {remedy}")
        text, images, parts = _content(value.get("content"))
        fields = {"role": ROLES[role], "content": text, "images": images, "parts": parts}
        fields["reasoning"] = value.get("reasoning_content") or value.get("reasoning") or ""
        for name in ("name", "tool_calls", "tool_call_id"):
            if value.get(name) is not None:
                fields[name] = value[name]
        if "tool_calls" in fields and role != "assistant":
            raise refuse(f"has `tool_calls`, and its `role` is {role!r}; only an assistant calls")
        return fields

    def message(self) -> Message:
        return Message(
            role=self.role,
            text=self.content,
            images=tuple(self.images),
            parts=tuple(self.parts),
            name=self.name,
            tool_calls=tuple(call.call() for call in self.tool_calls),
            tool_call_id=self.tool_call_id,
            reasoning=self.reasoning,
        )


def slot_after(messages: Sequence[ChatMessage], *, opens: bool | None, continues: bool) -> Slot:
    """What the prompt of a conversation ends with, as vLLM's two fields say.

    opens, continues: `add_generation_prompt` and `continue_final_message`.
    Raises a refusal where the last message is none that can be gone on with.
    """
    if not continues:
        return "none" if opens is False else "open"
    param = "continue_final_message"
    if opens:
        raise refuse("cannot be true beside `add_generation_prompt`", param=param)
    last = messages[-1] if messages else None
    if last is None or last.role != "assistant":
        raise refuse("needs an assistant's message at the end of `messages`", param=param)
    if last.tool_calls or not last.content:
        raise refuse("needs a last message that is a text, and calls no tools", param=param)
    return "continued"


def _content(value: Any) -> tuple[str, list[str], list[str | int]]:
    """Text, pictures and, where there are pictures, all parts of a message's `content`."""
    if value is None:
        return "", [], []
    if isinstance(value, str):
        return value, [], []
    if not isinstance(value, list):
        raise refuse("must have a text, null, or a list of parts as its `content`")
    if len(value) > MAX_PARTS:
        raise refuse(f"may have at most {MAX_PARTS} parts in its `content`")
    texts: list[str] = []
    images: list[str] = []
    parts: list[str | int] = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text", "refusal"):
            text = part.get("refusal" if kind == "refusal" else "text")
            if not isinstance(text, str):
                raise refuse("has a text part whose `text` is no text")
            texts.append(text)
            parts.append(text)
        elif kind == "image_url":
            parts.append(len(images))
            images.append(_image(part.get("image_url")))
        else:
            given = repr(kind[:40]) if isinstance(kind, str) else "none"
            message = f"has a part of `type` {given}; only `text` and `image_url` are known"
            raise refuse(message)
    return "\n".join(texts), images, parts if images else []


def _image(value: Any) -> str:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str) or not url.startswith(("data:image/", "https://", "http://")):
        raise refuse("has an `image_url` that is neither a data: nor an https: address")
    return url
