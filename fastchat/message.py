"""Message: who said what. The one form in which all parts of the program pass a turn on."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    """Who speaks. `developer` on the wire becomes `system` here."""
    text: str
    """What is said, the text parts joined."""
    images: tuple[str, ...] = ()
    """Pictures as `data:` or `https:` addresses, in the order they were sent."""
    name: str | None = None
    """The speaker's or the tool's name, where a chat template wants it."""
