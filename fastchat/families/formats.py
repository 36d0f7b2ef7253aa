"""How models write tool calls and mark their reasoning: data, read from formats.toml."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from fastchat.errors import DataError
from fastchat.families.tables import record_from_table

_PATH = Path(__file__).with_name("formats.toml")

F = TypeVar("F")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """One way to write tool calls.

    - `object`: `{"name": ..., "arguments": {...}}` between `begin` and `end`.
    - `list`: such objects in brackets, all after one `begin`.
    - `named`: `call_begin`, the name, `between`, the arguments' object, `call_end`.
    - `tagged`: `call_begin`, the name, `between`, then each argument as `key_begin` its name
      `key_end` `value_begin` its value `value_end`, then `call_end`; texts stand as they are, other
      values as JSON.
    - `channels`: harmony, whose answer is a row of messages, each with a channel and a recipient.

    A call stands between `begin` and `end`; where there is no `end`, after `begin`.
    """

    name: str
    begin: str = ""
    end: str = ""
    call_begin: str = ""
    between: str = ""
    call_end: str = ""
    gap: str = ""
    """Between the parts of a tagged call, which are read with or without it."""
    key_begin: str = ""
    key_end: str = ""
    value_begin: str = ""
    value_end: str = ""
    shape: Literal["object", "list", "named", "tagged", "channels"] = "object"
    arguments: str = "arguments"
    """What the arguments are called in the object."""
    separator: str = "\n"
    """Between two calls."""
    shares_marks: bool = False
    """All calls stand between one pair of marks, instead of each between its own."""
    may_be_bare: bool = False
    """A reply that begins with such an object is a call, even without the mark."""
    has_short_ids: bool = False
    """Its chat templates take ids of exactly nine letters and digits."""
    id_prefix: str = ""
    """The model writes ids, `{id_prefix}{name}:{number}`, where others write the name."""
    template_marks: tuple[tuple[str, ...], ...] = ()
    """Sets of texts; a chat template that holds all of one set writes this format."""
    texts: tuple[str, ...] = ()
    """Marks beside those above."""
    source: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """All that is written around names and arguments; some may be special tokens."""
        own = (self.begin, self.end, self.call_begin, self.between, self.call_end)
        parts = (self.key_begin, self.key_end, self.value_begin, self.value_end)
        return tuple(text for text in (*own, *parts, *self.texts) if text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningFormat:
    """The marks around what a model thinks before it answers."""

    name: str
    open: str
    close: str
    template_marks: tuple[tuple[str, ...], ...] = ()
    """As those of tool formats; empty: `close` alone tells."""
    source: str = ""


PLAIN_JSON = ToolFormat(name="json", may_be_bare=True)
"""For models of which no format is known: our own system text asks for it."""


@cache
def tool_formats() -> dict[str, ToolFormat]:
    """All formats by name, in the order they are tried."""
    tables = tomllib.loads(_PATH.read_text("utf-8"))["tools"]
    formats = {
        name: record_from_table(ToolFormat, table, f"formats.toml: tools.{name}", name=name)
        for name, table in tables.items()
    }
    return {**formats, PLAIN_JSON.name: PLAIN_JSON}


@cache
def reasoning_formats() -> dict[str, ReasoningFormat]:
    """All formats by name, in the order they are tried."""
    tables = tomllib.loads(_PATH.read_text("utf-8"))["reasoning"]
    return {
        name: record_from_table(
            ReasoningFormat, table, f"formats.toml: reasoning.{name}", name=name
        )
        for name, table in tables.items()
    }


def tool_format(name: str | None, chat_template: str) -> ToolFormat:
    """The format of a model: the one its chat template writes, else the one of this name.

    name: what the model's family says; chat_template: "" where there is none.
    Raises DataError for a name that no format has.
    """
    for known in tool_formats().values():
        if _is_written(known.template_marks, chat_template):
            return known
    return _named(tool_formats(), name or PLAIN_JSON.name)


def reasoning_format(name: str | None, chat_template: str) -> ReasoningFormat | None:
    """The format of a model, found like its tool format; None for one that declares none."""
    for known in reasoning_formats().values():
        if _is_written(known.template_marks or ((known.close,),), chat_template):
            return known
    return None if name is None else _named(reasoning_formats(), name)


def _is_written(sets: tuple[tuple[str, ...], ...], chat_template: str) -> bool:
    """Whether a chat template holds all texts of one of the sets."""
    return any(all(mark in chat_template for mark in marks) for marks in sets)


def _named(formats: dict[str, F], name: str) -> F:
    try:
        return formats[name]
    except KeyError:
        known = ", ".join(formats)
        raise DataError(f"there is no format {name!r}; known are {known}") from None
