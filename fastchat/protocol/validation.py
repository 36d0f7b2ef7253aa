"""What the validators of all bodies share: how one refuses, and in which words it is told."""

from typing import Any

import orjson
from pydantic_core import PydanticCustomError

from fastchat.errors import OutOfRangeError, UsageError


def refuse(message: str, *, param: str | None = None) -> PydanticCustomError:
    """An error for a validator to raise; `message` continues the field's name.

    Args:
        param: the field, where the validator is not the field's own.
    """
    return PydanticCustomError("refused", "{message}", {"message": message, "param": param})


def json_text(value: Any, *, param: str, limit: int) -> str:
    """`value` as JSON text; refused where it is longer than `limit` or nested without reason."""
    try:
        text = orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise refuse("is nested too deeply", param=param) from None
    if len(text) > limit:
        raise refuse(f"may have at most {limit} characters as JSON", param=param)
    return text


_TYPES = {
    "missing": "is required",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "string_too_short": "must not be empty",
    "refused": "{message}",
}
_RANGES = {
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "too_long": "may hold at most {max_length} entries",
    "string_too_long": "may have at most {max_length} characters",
    "literal_error": "must be one of {expected}",
}


def usage_error(error: Any) -> UsageError:
    """The first fault that was found, in words that name fields and nothing of ours."""
    context = error.get("ctx", {})
    param = context.get("param") or _path(error["loc"])
    kind = error["type"]
    if kind not in _RANGES:
        words = _TYPES.get(kind, "has a value that does not fit").format(**context)
        return UsageError(f"`{param}` {words}.", param=param)
    words = _RANGES[kind].format(**context)
    if isinstance(error["input"], int | float):
        words += f", not {error['input']}"
    return OutOfRangeError(f"`{param}` {words}.", param=param)


def _path(loc: tuple[int | str, ...]) -> str:
    """`messages[3].name` for ("messages", 3, "name")."""
    path = ""
    for step in loc:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path
