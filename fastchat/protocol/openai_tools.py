"""Tools of a chat: what may be called, whether it must be, and the calls of earlier answers."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fastchat.message import ToolCall
from fastchat.protocol.validation import json_text, refuse

MAX_TOOLS = 128
MAX_CALLS = 128
MAX_PARAMETERS_CHARS = 1 << 17
MAX_ARGUMENTS_CHARS = 1 << 24

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str
    """Empty where the client gave none: many chat templates fail without one."""
    parameters: dict[str, Any]
    """A JSON schema of an object."""
    source: str
    """The same as JSON text."""
    is_strict: bool

    def wire(self) -> dict[str, Any]:
        """The form in which chat templates read it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Whether tools are to be called."""

    mode: Literal["none", "auto", "required", "named"] = "auto"
    name: str | None = None
    """The one to be called, with `named`."""
    allowed: tuple[str, ...] | None = None
    """Those that the model is told of; None: all."""


def _tools(value: Any) -> list[Tool]:
    if not isinstance(value, list):
        raise refuse("must be a list of tools")
    if len(value) > MAX_TOOLS:
        raise refuse(f"may hold at most {MAX_TOOLS} tools")
    tools = [_tool(item, f"tools[{i}]") for i, item in enumerate(value)]
    seen: set[str] = set()
    for i, tool in enumerate(tools):
        if tool.name in seen:
            message = f"is {tool.name!r}, as an earlier tool's is; give each its own name"
            raise refuse(message, param=f"tools[{i}].function.name")
        seen.add(tool.name)
    return tools


def _tool(value: Any, path: str) -> Tool:
    if not isinstance(value, dict):
        raise refuse("must be an object", param=path)
    kind = value.get("type", "function")
    if kind != "function":
        given = repr(kind[:40]) if isinstance(kind, str) else "no text"
        raise refuse(f"is {given}; only `function` is supported", param=f"{path}.type")
    function = value.get("function")
    if not isinstance(function, dict):
        raise refuse("must be an object with `name` and `parameters`", param=f"{path}.function")
    name, parameters = function.get("name"), function.get("parameters")
    description, strict = function.get("description"), function.get("strict")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        message = "must be 1 to 64 letters, digits, underscores, dots or dashes"
        raise refuse(message, param=f"{path}.function.name")
    if description is not None and not isinstance(description, str):
        raise refuse("must be a text", param=f"{path}.function.description")
    if parameters is not None and not isinstance(parameters, dict):
        message = "must be a JSON schema, which is an object"
        raise refuse(message, param=f"{path}.function.parameters")
    if parameters and parameters.get("type", "object") != "object":
        message = "must be the schema of an object, with `type` `object`"
        raise refuse(message, param=f"{path}.function.parameters")
    schema = {"type": "object", **parameters} if parameters else _NO_PARAMETERS
    where = f"{path}.function.parameters"
    return Tool(
        name=name,
        description=description or "",
        parameters=schema,
        source=json_text(schema, param=where, limit=MAX_PARAMETERS_CHARS),
        is_strict=strict is True,
    )


def _choice(value: Any) -> ToolChoice:
    if isinstance(value, str) and value in ("none", "auto", "required"):
        return ToolChoice(mode=value)  # type: ignore[arg-type]
    if isinstance(value, dict) and value.get("type", "function") == "function":
        function = value.get("function")
        name = function.get("name") if isinstance(function, dict) else value.get("name")
        if isinstance(name, str):
            return ToolChoice(mode="named", name=name)
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        return _allowed(value.get("allowed_tools"))
    raise refuse(
        'must be `none`, `auto`, `required`, {"type": "function", "function": {"name": ...}}, '
        'or {"type": "allowed_tools", "allowed_tools": {"mode": ..., "tools": [...]}}'
    )


def _allowed(value: Any) -> ToolChoice:
    """The choice among some of the tools."""
    mode = value.get("mode") if isinstance(value, dict) else None
    if mode not in ("auto", "required"):
        raise refuse("must be `auto` or `required`", param="tool_choice.allowed_tools.mode")
    tools = value.get("tools")
    if not isinstance(tools, list) or not 0 < len(tools) <= MAX_TOOLS:
        message = f"must be a list of 1 to {MAX_TOOLS} tools"
        raise refuse(message, param="tool_choice.allowed_tools.tools")
    return ToolChoice(
        mode=mode, allowed=tuple(_allowed_name(tool, i) for i, tool in enumerate(tools))
    )


def _allowed_name(tool: Any, i: int) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        message = 'must be {"type": "function", "function": {"name": ...}}'
        raise refuse(message, param=f"tool_choice.allowed_tools.tools[{i}]")
    return name


Tools = Annotated[list[Any], BeforeValidator(_tools)]
Choice = Annotated[Any, BeforeValidator(_choice)]


def _arguments(value: Any) -> str:
    if isinstance(value, dict):
        path = "messages.tool_calls.function.arguments"
        return json_text(value, param=path, limit=MAX_ARGUMENTS_CHARS)
    if value is None:
        return "{}"
    if not isinstance(value, str):
        raise refuse("must be a text that holds a JSON object")
    return value


class _WireFunction(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    name: Annotated[str, Field(max_length=256)]
    arguments: Annotated[str, BeforeValidator(_arguments)] = "{}"
    """A JSON object as text; some clients send the object itself."""


class WireCall(BaseModel):
    """A tool call of an earlier answer, as a client sends it back."""

    model_config = ConfigDict(strict=True, extra="ignore")

    id: Annotated[str, Field(max_length=256)] = ""
    type: Literal["function"] = "function"
    function: _WireFunction

    def call(self) -> ToolCall:
        arguments = self.function.arguments.strip() or "{}"
        return ToolCall(id=self.id, name=self.function.name, arguments=arguments)
