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

    A call is an object with `name` and `arguments` between `begin` and `end`; the calls of a
    `list` share one pair of marks and stand in brackets; a `named` call is its name, `between`,
    and the arguments.
    """

    name: str
    begin: str = ""
    end: str = ""
    between: str = ""
    shape: Literal["object", "list", "named"] = "object"
    arguments: str = "arguments"
    """What the arguments are called in the object."""
    separator: str = "\n"
    """Between two calls."""
    may_be_bare: bool = False
    """A reply that begins with such an object is a call, even without the mark."""
    has_short_ids: bool = False
    """Its chat templates take ids of exactly nine letters and digits."""
    template_marks: tuple[tuple[str, ...], ...] = ()
    """Sets of texts; a chat template that holds all of one set writes this format."""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningFormat:
    """The marks around what a model thinks before it answers."""

    name: str
    open: str
    close: str
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
        if any(all(mark in chat_template for mark in marks) for marks in known.template_marks):
            return known
    return _named(tool_formats(), name or PLAIN_JSON.name)


def reasoning_format(name: str | None, chat_template: str) -> ReasoningFormat | None:
    """The format of a model, found like its tool format; None for one that declares none."""
    for known in reasoning_formats().values():
        if known.close in chat_template:
            return known
    return None if name is None else _named(reasoning_formats(), name)


def _named(formats: dict[str, F], name: str) -> F:
    try:
        return formats[name]
    except KeyError:
        known = ", ".join(formats)
        raise DataError(f"there is no format {name!r}; known are {known}") from None
