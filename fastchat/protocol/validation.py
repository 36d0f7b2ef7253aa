"""What the validators of all bodies share: how one refuses."""

from typing import Any

import orjson
from pydantic_core import PydanticCustomError


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
