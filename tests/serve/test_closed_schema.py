"""What the arguments of a call are held to, beyond the words of their schema."""

import json

import pytest

from fastchat.serve.closed_schema import closed

OPEN = {"type": "object", "properties": {"a": {"type": "integer"}}}
SHUT = {**OPEN, "additionalProperties": False}


@pytest.mark.parametrize(
    ("given", "held"),
    [
        (OPEN, SHUT),
        (
            {"type": "object", "properties": {"o": OPEN, "l": {"type": "array", "items": OPEN}}},
            {
                "type": "object",
                "properties": {"o": SHUT, "l": {"type": "array", "items": SHUT}},
                "additionalProperties": False,
            },
        ),
        (
            {"properties": {"o": {"$ref": "#/$defs/O"}}, "$defs": {"O": OPEN}},
            {
                "properties": {"o": {"$ref": "#/$defs/O"}},
                "$defs": {"O": SHUT},
                "additionalProperties": False,
            },
        ),
        ({"anyOf": [OPEN, {"type": "null"}]}, {"anyOf": [SHUT, {"type": "null"}]}),
        (
            {"properties": {"properties": {"type": "string"}}},
            {"properties": {"properties": {"type": "string"}}, "additionalProperties": False},
        ),
    ],
)
def test_parameters_that_are_not_named_are_not_made(given: object, held: object) -> None:
    assert json.loads(closed(json.dumps(given))) == held


@pytest.mark.parametrize(
    "schema",
    [
        {**OPEN, "additionalProperties": True},
        {**OPEN, "additionalProperties": {"type": "string"}},
        {**OPEN, "patternProperties": {"^x": {}}},
        {**OPEN, "required": ["b"]},
        {"type": "object"},
        {"allOf": [OPEN, {"properties": {"b": {}}}]},
        {**OPEN, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    ],
)
def test_what_a_schema_leaves_open_on_purpose_stays_open(schema: object) -> None:
    assert json.loads(closed(json.dumps(schema))) == schema
