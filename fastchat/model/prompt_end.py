"""How the prompt of one of our templates ends: open, closed, or within the last message."""

from collections.abc import Sequence
from datetime import datetime

from fastchat.errors import UsageError
from fastchat.message import Message, Slot
from fastchat.template import Template


def prompt_of(
    template: Template, messages: Sequence[Message], *, slot: Slot, now: datetime | None = None
) -> str:
    """The text of a conversation.

    Raises UsageError when the last message is to be gone on with, and is no assistant's text.
    """
    if slot != "continued":
        return template.prompt(messages, open_slot=slot == "open", now=now)
    last = messages[-1] if messages else None
    if last is None or last.role != "assistant" or not last.text:
        raise UsageError("there is no answer to go on with", param="continue_final_message")
    before = template.prompt(messages[:-1], now=now)
    return before + lead_of(template) + last.text


def lead_of(template: Template) -> str:
    """What stands between the slot and an answer."""
    return "" if template.layout == "joined" else template.assistant[0].removeprefix(template.open)
