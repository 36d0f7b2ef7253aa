"""Tools for prompt formats that know none: told, called and answered in plain messages."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastchat.families.formats import ToolFormat
from fastchat.message import Message, ToolCall

_INTRODUCTION = """\
You can call functions. These are the functions, one on a line, each with a JSON schema of its \
arguments:

{tools}

To call a function, write this, with nothing before and nothing after it:

{form}

{more}The result comes back in the next message. When no function is needed, answer in \
plain words."""

_SEVERAL = "To call several functions, write several calls, each on a line of its own. "


def introduction(tools: Sequence[Mapping[str, Any]], form: ToolFormat) -> str:
    """The system text that tells a model of its tools and how to call them."""
    described = [
        {key: tool["function"][key] for key in _SHOWN if key in tool["function"]} for tool in tools
    ]
    lines = "\n".join(json.dumps(one, ensure_ascii=False) for one in described)
    arguments = '{"ARGUMENT": "VALUE"}' if form.shape == "tagged" else '{"ARGUMENT": VALUE}'
    sample = written((ToolCall(id="", name="NAME", arguments=arguments),), form)
    several = _SEVERAL if form.shape == "object" else ""
    return _INTRODUCTION.format(tools=lines, form=sample, more=several)


_SHOWN = ("name", "description", "parameters")


def plain_messages(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    form: ToolFormat,
    *,
    system: str = "",
) -> list[Message]:
    """The same conversation with the roles system, user and assistant, and text, alone.

    system: the format's own system text, which stands where the conversation has none.
    """
    given = [m.text for m in messages if m.role == "system"] or [system]
    told = introduction(tools, form) if tools else ""
    texts = [text for text in (*given, told) if text]
    plain: list[Message] = []
    if tools or any(m.role == "system" for m in messages):
        plain.append(Message(role="system", text="\n\n".join(texts)))
    names: dict[str | None, str] = {}
    for message in messages:
        names |= {call.id: call.name for call in message.tool_calls}
        if message.role == "system":
            continue
        if message.role == "tool":
            _append_result(plain, message, names.get(message.tool_call_id))
        elif message.tool_calls:
            text = "\n".join(filter(None, (message.text, written(message.tool_calls, form))))
            plain.append(replace(message, text=text, tool_calls=()))
        else:
            plain.append(message)
    return plain


def told_messages(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], form: ToolFormat
) -> list[Message]:
    """The same conversation with the tools told in its system text; calls stay calls."""
    if not tools:
        return list(messages)
    texts = [m.text for m in messages if m.role == "system" and m.text]
    system = Message(role="system", text="\n\n".join((*texts, introduction(tools, form))))
    return [system, *(m for m in messages if m.role != "system")]


def written(calls: Sequence[ToolCall], form: ToolFormat) -> str:
    """Calls as a model of this format writes them."""
    match form.shape:
        case "named" | "tagged":
            one = _named if form.shape == "named" else _tagged
            each = [one(i, call, form) for i, call in enumerate(calls)]
            if form.shares_marks:
                each = [form.separator.join(each)]
            gap, end_gap = form.gap if form.call_begin else "", form.gap if form.end else ""
            between = form.separator if form.call_end else ""
            return between.join(f"{form.begin}{gap}{one}{end_gap}{form.end}" for one in each)
        case "channels":
            return "<|start|>assistant".join(_message(call) for call in calls)
        case "list":
            return f"{form.begin}[{', '.join(_object(call, form) for call in calls)}]"
        case "object":
            objects = [_object(call, form) for call in calls]
            if form.end:
                return form.separator.join(f"{form.begin}\n{one}\n{form.end}" for one in objects)
            return form.separator.join(objects)


def _object(call: ToolCall, form: ToolFormat) -> str:
    return f'{{"name": {json.dumps(call.name)}, "{form.arguments}": {call.arguments}}}'


def _named(place: int, call: ToolCall, form: ToolFormat) -> str:
    head = call.name
    if form.id_prefix:
        is_own = call.id.startswith(form.id_prefix)
        head = call.id if is_own else f"{form.id_prefix}{call.name}:{place}"
    return f"{form.call_begin}{head}{form.between}{call.arguments}{form.call_end}"


def _tagged(_: int, call: ToolCall, form: ToolFormat) -> str:
    parts = [f"{form.call_begin}{call.name}{form.between}"]
    for key, value in _items(call.arguments):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        gap = form.gap if form.value_begin.strip() else ""
        tagged_key = f"{form.key_begin}{key}{form.key_end}"
        parts.append(f"{tagged_key}{gap}{form.value_begin}{text}{form.value_end}")
    return form.gap.join([*parts, form.call_end])


def _items(arguments: str) -> Sequence[tuple[str, Any]]:
    """The arguments one by one; none where the text is no object."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return ()
    return list(value.items()) if isinstance(value, dict) else ()


def _message(call: ToolCall) -> str:
    """A call as a message of harmony, without its beginning."""
    to = f"<|channel|>commentary to=functions.{call.name} <|constrain|>json"
    return f"{to}<|message|>{call.arguments}<|call|>"


def _append_result(plain: list[Message], message: Message, name: str | None) -> None:
    """Tells the result of a call in the words of the user; several results are one message."""
    source = message.name or name
    head = f"Result of the function {source}:" if source else "Result of the function:"
    text = f"{head}\n{message.text}"
    last = plain[-1] if plain else None
    if last is not None and last.role == "user" and last.text.startswith("Result of the function"):
        plain[-1] = replace(last, text=f"{last.text}\n\n{text}")
    else:
        plain.append(Message(role="user", text=text, images=message.images))
