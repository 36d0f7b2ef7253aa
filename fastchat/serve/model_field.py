"""Reads the one field of a request body that a gateway needs: which model is asked.

Small bodies are parsed. Large ones are only scanned, because their millions of small values
would cost more memory and time than the whole passage; the endpoint validates them.
"""

import asyncio
import re
import sys

import orjson

from fastchat.errors import UsageError
from fastchat.serve.asgi import parse_json_object

PARSE_BYTES = 256 * 1024
SCAN_INLINE_BYTES = 1024 * 1024
MAX_DEPTH = 1000
MAX_STEPS = 300_000
CAN_SCAN = sys.version_info >= (3, 11, 5)
"""Before, possessive quantifiers matched wrongly (github.com/python/cpython/issues/106052); there a
large body is parsed whole, which costs the time and memory that scanning saves."""

_PLAIN = rb'[^"{}\[\]]++'
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
# Every way to write "model" in JSON, and the colon that makes it a key.
_KEY = (
    rb'"(?:m|\\u006[dD])(?:o|\\u006[fF])(?:d|\\u0064)(?:e|\\u0065)(?:l|\\u006[cC])"'
    rb"[ \t\r\n]*+:[ \t\r\n]*+"
)


def _containers(levels: int) -> bytes:
    """A pattern of arrays and objects at most so deep, and not too long for one step."""
    inside = rb"(?:%b|%b){0,200}+" % (_PLAIN, _STRING)
    pattern = rb"[{\[]%b[}\]]" % inside
    for _ in range(levels - 1):
        pattern = rb"[{\[](?:%b|%b|%b){0,200}+[}\]]" % (_PLAIN, _STRING, pattern)
    return pattern


# What can be passed over in one step. Possessive throughout, so that nothing is tried twice, and
# bounded, because a match holds the interpreter: 20,000 items take about two milliseconds.
_SMALL = _containers(5)
_INNER = re.compile(rb"(?:%b|%b|%b){0,20000}+" % (_PLAIN, _STRING, _SMALL), re.DOTALL)
_TOP = re.compile(rb"(?:%b|(?!%b)%b|%b){0,20000}+" % (_PLAIN, _KEY, _STRING, _SMALL), re.DOTALL)
_MODEL = re.compile(_KEY)
_TEXT = re.compile(_STRING, re.DOTALL)


async def read_model(body: bytes) -> str | None:
    """The value of the top-level field `model`, None when it is absent.

    Raises:
        UsageError: the body is no JSON object, or its model is not text.
    """
    if len(body) <= PARSE_BYTES:
        model = parse_json_object(body).get("model")
    elif len(body) <= SCAN_INLINE_BYTES:
        model = scan_model(body)
    else:
        model = await asyncio.to_thread(scan_model, body)
    if model is not None and not isinstance(model, str):
        raise UsageError("'model' must be the name of a model, as a string.", param="model")
    return model


def scan_model(body: bytes) -> object:
    """The last top-level `model` of a large body, found without building the rest.

    What is not a string comes back as a value that is not one. Says nothing about whether
    the body is valid JSON beyond its first bytes.

    Raises:
        UsageError: it does not begin like an object, or is nested too deeply.
    """
    if not body[:64].lstrip(b" \t\r\n").startswith(b"{"):
        raise UsageError("The request body must be a JSON object.")
    if not CAN_SCAN:
        return parse_json_object(body).get("model")
    model: object = None
    depth, at = 1, body.index(b"{") + 1
    steps = 0
    while at < len(body) and depth:
        steps += 1
        if steps > MAX_STEPS:
            raise UsageError("The request body is nested deeply in too many places; send less.")
        passed = (_TOP if depth == 1 else _INNER).match(body, at)
        if passed is not None and passed.end() > at:
            at = passed.end()
        elif body[at] in b"{[":
            depth, at = depth + 1, at + 1
            if depth > MAX_DEPTH:
                raise UsageError(f"The request body is nested more than {MAX_DEPTH} deep.")
        elif body[at] in b"}]":
            depth, at = depth - 1, at + 1
        elif depth == 1 and (key := _MODEL.match(body, at)):
            at = key.end()
            model = _value(body, at)
        else:
            break  # a string without an end
    return model


def _value(body: bytes, start: int) -> object:
    """The string at `start`; True stands for any other value, None for null."""
    if body.startswith(b"null", start):
        return None
    match = _TEXT.match(body, start)
    if match is None:
        return True
    try:
        return orjson.loads(match.group())
    except orjson.JSONDecodeError:
        raise UsageError("The request body is not valid JSON: 'model' cannot be read.") from None
