"""What reads one tool call while it is being written, whatever the format."""

from collections.abc import Mapping
from typing import Any, Protocol

from fastchat.families.formats import ToolFormat
from fastchat.serve.call_scanner import CallScanner
from fastchat.serve.named_call import NamedCall
from fastchat.serve.tagged_call import TaggedCall


class CallReader(Protocol):
    """Reads a call letter by letter, from its first one on."""

    name: str | None
    """Once it is known."""
    id: str | None
    """In formats that write one."""
    is_done: bool
    """The call has ended."""
    is_broken: bool
    """It is none."""

    def feed(self, text: str) -> int:
        """Reads on; gives how many letters belong to the call."""
        ...

    def take(self) -> str:
        """What of the arguments' JSON is new."""
        ...

    def rest(self) -> str:
        """What of the arguments was withheld, once no more will come."""
        ...


def new_reader(form: ToolFormat, tools: Mapping[str, Any], first: str) -> CallReader:
    """What reads the calls of a format. tools: their parameters' schemas by name; first: letter."""
    if form.shape == "tagged":
        return TaggedCall(form, tools)
    # Models of formats with names write objects too, as their forerunners did.
    if form.shape == "named" and (first != "{" or form.call_begin):
        return NamedCall(form)
    return CallScanner()


def opening(form: ToolFormat) -> str:
    """The text that every call begins with; empty where it is the name itself."""
    return "{" if form.shape in ("object", "list") else form.call_begin
