"""What an answer must look like: `response_format`, and vLLM's fields for the rest."""

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from fastchat.protocol.validation import json_text, refuse

MAX_SOURCE_CHARS = 1 << 18
MAX_CHOICES = 10_000

GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
"""vLLM's older names; `structured_outputs` holds the same without the prefix."""

_KINDS = ("json", "json_object", "regex", "choice", "grammar")


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A demand on the form of an answer."""

    kind: Literal["json_schema", "regex", "choice", "lark"]
    source: str
    """A JSON schema, a pattern, a JSON list of texts, or a Lark grammar."""
    param: str
    """The field that it came in."""


def constraint_of(body: dict[str, Any]) -> Constraint | None:
    """The one demand that a request makes.

    Raises a refusal for one that is malformed, not supported, or not alone.
    """
    found: list[Constraint] = []
    if (given := body.get("response_format")) is not None:
        one = _response_format(given)
        found += [] if one is None else [one]
    for name in GUIDED:
        if (given := body.get(name)) is not None:
            found.append(_guided(name.removeprefix("guided_"), given, name))
    if (given := body.get("structured_outputs")) is not None:
        found += _structured_outputs(given)
    if len(found) > 1:
        message = f"and `{found[0].param}` cannot both be given"
        raise refuse(message, param=found[1].param)
    return found[0] if found else None


def _response_format(value: Any) -> Constraint | None:
    kind = value.get("type") if isinstance(value, dict) else None
    match kind:
        case "text":
            return None
        case "json_object":
            return _schema({"type": "object"}, "response_format")
        case "json_schema":
            inner = value.get("json_schema")
            if not isinstance(inner, dict):
                message = "must be an object with `name` and `schema`"
                raise refuse(message, param="response_format.json_schema")
            return _schema(inner.get("schema"), "response_format.json_schema.schema")
    raise refuse("must be `text`, `json_object` or `json_schema`", param="response_format.type")


def _structured_outputs(value: Any) -> list[Constraint]:
    if not isinstance(value, dict):
        raise refuse("must be an object", param="structured_outputs")
    found: list[Constraint] = []
    for name, given in value.items():
        path = f"structured_outputs.{name[:40]}"
        if given is None or given is False:
            continue
        if name not in _KINDS:
            raise refuse(f"is not supported; use one of {', '.join(_KINDS)}", param=path)
        found.append(_guided(name, given, path))
    if len(found) > 1:
        raise refuse("may hold one demand only", param="structured_outputs")
    return found


def _guided(kind: str, value: Any, path: str) -> Constraint:
    match kind:
        case "json":
            return _schema(value, path)
        case "json_object":
            return _schema({"type": "object"}, path)
        case "choice":
            return _choices(value, path)
        case "regex" | "grammar":
            if not isinstance(value, str) or not 0 < len(value) <= MAX_SOURCE_CHARS:
                raise refuse(f"must be a text of 1 to {MAX_SOURCE_CHARS} characters", param=path)
            return Constraint(kind="regex" if kind == "regex" else "lark", source=value, param=path)
    raise AssertionError(kind)


def _schema(value: Any, path: str) -> Constraint:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise refuse("is no JSON", param=path) from None
    if not isinstance(value, dict | bool):
        raise refuse("must be a JSON schema, which is an object", param=path)
    source = json_text({} if value is True else value, param=path, limit=MAX_SOURCE_CHARS)
    return Constraint(kind="json_schema", source=source, param=path)


def _choices(value: Any, path: str) -> Constraint:
    is_list = isinstance(value, list) and all(isinstance(c, str) and c for c in value)
    if not is_list or not 0 < len(value) <= MAX_CHOICES:
        raise refuse(f"must be a list of 1 to {MAX_CHOICES} texts, none empty", param=path)
    source = json_text(value, param=path, limit=MAX_SOURCE_CHARS)
    return Constraint(kind="choice", source=source, param=path)
