"""A tool's parameters without those that its schema does not name."""

from typing import Any

import orjson


def closed(schema: str) -> str:
    """A tool's parameters without those that it does not name.

    JSON Schema allows any others where `additionalProperties` is not there, and a function that
    gets them fails. What is put together of several schemas stays as it is: each alone would
    forbid what the others name.
    """
    if '"allOf"' in schema or '"if"' in schema or '"dependentSchemas"' in schema:
        return schema
    return orjson.dumps(_closed(orjson.loads(schema))).decode()


_PLACES = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "prefixItems")
_OTHERS = {"additionalProperties", "patternProperties", "unevaluatedProperties", "$ref", *_LISTS}
"""With one of these beside them, `properties` are not all that may be there."""


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for name in _PLACES:
        if isinstance(inner := schema.get(name), dict):
            result[name] = {key: _closed(value) for key, value in inner.items()}
    for name in _LISTS:
        if isinstance(inner := schema.get(name), list):
            result[name] = [_closed(value) for value in inner]
    if "items" in schema:
        result["items"] = _closed(schema["items"])
    named = schema.get("properties")
    if isinstance(named, dict) and not _OTHERS & schema.keys() and _needs_no_other(schema, named):
        result["additionalProperties"] = False
    return result


def _needs_no_other(schema: dict[str, Any], named: dict[str, Any]) -> bool:
    required = schema.get("required", [])
    return isinstance(required, list) and all(name in named for name in required)
