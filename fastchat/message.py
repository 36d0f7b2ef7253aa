"""Message: who said what. The one form in which all parts of the program pass a turn on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Slot = Literal["open", "none", "continued"]
"""What a prompt ends with: the place of an answer, its last message, or the beginning of an
answer that its last message is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool that an answer holds."""

    id: str
    name: str
    arguments: str
    """A JSON object, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """What a prompt format needs beside the messages."""

    tools: tuple[Mapping[str, Any], ...] = ()
    """Each as on the wire: `{"type": "function", "function": {"name", "parameters", ...}}`."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Variables for the chat template, such as `enable_thinking`."""
    slot: Slot = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    """Who speaks. `developer` on the wire becomes `system` here."""
    text: str
    """What is said, the text parts joined."""
    images: tuple[str, ...] = ()
    """Pictures as `data:` or `https:` addresses, in the order they were sent."""
    parts: tuple[str | int, ...] = ()
    """Texts and numbers of pictures in the order they were sent; empty: as `content` says."""
    name: str | None = None
    """The speaker's or the tool's name, where a chat template wants it."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant: the tools it called, after its text."""
    tool_call_id: str | None = None
    """Of a tool: the call that this is the result of."""
    reasoning: str = ""
    """Of an assistant: what it thought before its text, where a chat template wants it back."""

    @property
    def content(self) -> tuple[str | int, ...]:
        """Texts and numbers of pictures in their order; pictures come first unless told."""
        if self.parts:
            return self.parts
        return (*range(len(self.images)), *((self.text,) if self.text else ()))
