"""Which kinds of JSON a parameter may be, and what a value that stands as plain text means.

Some models write arguments without quotes: whether `5` is a number or a text is told by the
tool's schema alone.
"""

import json
from collections.abc import Mapping
from typing import Any

import orjson

ALL = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})
_TEXT = frozenset({"string"})
_DEEPEST = 16
"""References that are followed."""
_WORDS = {"True": "true", "False": "false", "None": "null"}
"""As chat templates write these values, and so models."""


def kinds_of(schema: Any, root: Any = None, *, depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema lets through, by their words; an integer is a number too.

    root: where its references point into.
    """
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return ALL
    if isinstance(ref := schema.get("$ref"), str):
        return kinds_of(resolved(ref, root), root, depth=depth + 1)
    found = _named(schema)
    if isinstance(values := schema.get("enum"), list):
        found &= _kinds_of_values(values)
    if "const" in schema:
        found &= _kinds_of_values([schema["const"]])
    for name in ("anyOf", "oneOf"):
        if isinstance(inner := schema.get(name), list):
            each = (kinds_of(one, root, depth=depth + 1) for one in inner)
            found &= frozenset().union(*each)
    if isinstance(inner := schema.get("allOf"), list):
        for one in inner:
            found &= kinds_of(one, root, depth=depth + 1)
    return found


def resolved(ref: str, root: Any) -> Any:
    """What a reference within `root` points to; None for any other."""
    if not ref.startswith("#"):
        return None
    place = root
    for step in ref[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(place, Mapping) or name not in place:
            return None
        place = place[name]
    return place


def is_text(kinds: frozenset[str]) -> bool:
    """Whether nothing but a text is let through, so that a value can go out as it comes."""
    return kinds == _TEXT


def json_of(text: str, kinds: frozenset[str]) -> str:
    """The JSON of a value written as plain text.

    What is none of the kinds stays what it says, so that the caller of the tool sees it.
    """
    if is_text(kinds):
        return quoted(text)
    bare = text.strip()
    bare = _WORDS.get(bare, bare)
    try:
        value = orjson.loads(bare)
    except orjson.JSONDecodeError:
        return quoted(text)
    if "string" in kinds and not kinds & _kinds_of_values([value]):
        return quoted(text)
    return bare


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _named(schema: Mapping[str, Any]) -> frozenset[str]:
    kind = schema.get("type")
    kinds = [kind] if isinstance(kind, str) else kind
    if not isinstance(kinds, list):
        return ALL
    found = frozenset(name for name in kinds if isinstance(name, str)) & ALL
    return found | {"integer"} if "number" in found else found


def _kinds_of_values(values: list[Any]) -> frozenset[str]:
    return frozenset().union(*(_kinds_of_value(value) for value in values))


def _kinds_of_value(value: Any) -> frozenset[str]:
    match value:
        case None:
            return frozenset({"null"})
        case bool():
            return frozenset({"boolean"})
        case int():
            return frozenset({"integer", "number"})
        case float():
            return frozenset({"number", "integer"} if value.is_integer() else {"number"})
        case str():
            return _TEXT
        case list():
            return frozenset({"array"})
        case _:
            return frozenset({"object"})
