"""A chat request taken apart, as every wire needs it: system text, turns, tools, numbers."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from fastchat.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A picture of a message: its bytes as base64, or an address for the provider to fetch."""

    media_type: str = ""
    data: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a tool."""

    id: str
    name: str
    arguments: str
    """JSON."""

    def values(self) -> dict[str, Any]:
        """The arguments as an object.

        Raises:
            UsageError: they are none.
        """
        try:
            value = orjson.loads(self.arguments or "{}")
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise UsageError(
                "The arguments of a tool call must be a JSON object.", param="messages"
            )
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message after the system's."""

    role: Literal["user", "assistant", "tool"]
    parts: tuple[str | Image, ...] = ()
    calls: tuple[Call, ...] = ()
    call_id: str = ""
    """Of a tool's answer: which call it answers."""

    @property
    def text(self) -> str:
        return "\n".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAsk:
    """A chat request."""

    body: Mapping[str, Any]
    system: str
    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...]
    tool_choice: str
    """auto, none, required, or the name of a tool after `name:`."""

    @property
    def is_streamed(self) -> bool:
        return self.body.get("stream") is True

    @property
    def wants_usage(self) -> bool:
        options = self.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    @property
    def max_tokens(self) -> int | None:
        return self.body.get("max_completion_tokens") or self.body.get("max_tokens")

    @property
    def stop(self) -> list[str]:
        stop = self.body.get("stop")
        return [stop] if isinstance(stop, str) else list(stop or [])


def read_ask(body: Mapping[str, Any]) -> ChatAsk:
    """The request in a chat body.

    Raises:
        UsageError: it cannot be understood; `param` names the field.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "must be a list of messages")
    system: list[str] = []
    turns: list[Turn] = []
    for message in messages:
        if not isinstance(message, dict):
            raise _wrong("messages", "must hold objects")
        role = message.get("role")
        parts = _parts(message.get("content"))
        match role:
            case "system" | "developer":
                system += [part for part in parts if isinstance(part, str)]
            case "user":
                turns.append(Turn(role="user", parts=parts))
            case "assistant":
                calls = _calls(message.get("tool_calls"))
                turns.append(Turn(role="assistant", parts=parts, calls=calls))
            case "tool":
                call_id = message.get("tool_call_id")
                if not isinstance(call_id, str):
                    raise _wrong("messages", "has a tool message without 'tool_call_id'")
                turns.append(Turn(role="tool", parts=parts, call_id=call_id))
            case _:
                raise _wrong("messages", f"has the unknown role {str(role)[:40]!r}")
    return ChatAsk(
        body=body,
        system="\n\n".join(system),
        turns=tuple(turns),
        tools=_tools(body.get("tools")),
        tool_choice=_tool_choice(body.get("tool_choice")),
    )


def merged(turns: Sequence[Turn]) -> list[list[Turn]]:
    """Turns in groups of one speaker: a tool's answers are the user's, as most providers want."""
    groups: list[list[Turn]] = []
    for turn in turns:
        if groups and (groups[-1][0].role == "assistant") == (turn.role == "assistant"):
            groups[-1].append(turn)
        else:
            groups.append([turn])
    return groups


def refuse(body: Mapping[str, Any], fields: Sequence[str], provider: str) -> None:
    """
    Raises:
        UsageError: the request uses one of the fields, which this provider does not have.
    """
    for name in fields:
        if body.get(name) not in (None, False, {}, []):
            raise UsageError(f"{provider} does not support {name!r}; leave it out.", param=name)
    if body.get("n") not in (None, 1):
        raise UsageError(f"{provider} gives one answer at a time; leave 'n' out.", param="n")


def _parts(content: Any) -> tuple[str | Image, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (content,) if content else ()
    if not isinstance(content, list):
        raise _wrong("messages", "has content that is neither text nor a list of parts")
    return tuple(_part(part) for part in content)


def _part(part: Any) -> str | Image:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if isinstance(url, str):
            return _image(url)
    raise _wrong("messages", f"has a content part of the kind {str(kind)[:40]!r}")


def _image(url: str) -> Image:
    """An image of a data URL; one elsewhere stays an address, which the provider fetches."""
    if not url.startswith("data:"):
        if not url.startswith(("https://", "http://")):
            raise _wrong("messages", "has an image that is no data URL and no web address")
        return Image(url=url)
    head, _, data = url.partition(",")
    media_type, _, form = head.removeprefix("data:").partition(";")
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        data = ""
    if form != "base64" or not data or not media_type.startswith("image/"):
        raise _wrong("messages", "has an image that is no base64 data URL of an image")
    return Image(media_type=media_type, data=data)


def _calls(value: Any) -> tuple[Call, ...]:
    calls: list[Call] = []
    for call in value or ():
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _wrong("messages", "has a tool call without a function's name")
        arguments = function.get("arguments")
        arguments = arguments if isinstance(arguments, str) else "{}"
        calls.append(Call(id=str(call.get("id")), name=function["name"], arguments=arguments))
    return tuple(calls)


def _tools(value: Any) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for tool in value or ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _wrong("tools", "must hold tools of type 'function', each with a name")
        tools.append(
            Tool(
                name=function["name"],
                description=str(function.get("description") or ""),
                parameters=function.get("parameters") or {"type": "object", "properties": {}},
            )
        )
    return tuple(tools)


def _tool_choice(value: Any) -> str:
    if value in (None, "auto", "none", "required"):
        return value or "auto"
    function = value.get("function") if isinstance(value, dict) else None
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return f"name:{function['name']}"
    raise _wrong("tool_choice", "must be none, auto, required, or name a function")


def _wrong(field: str, rule: str) -> UsageError:
    return UsageError(f"'{field}' {rule}.", param=field)
