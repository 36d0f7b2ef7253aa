"""Reads the one field of a request body that a gateway needs: which model is asked.

Small bodies are parsed. Large ones are only scanned, because their millions of small values
would cost more memory and time than the whole passage; the endpoint validates them.
"""

import asyncio
import re

import orjson

from fastchat.errors import UsageError
from fastchat.serve.asgi import parse_json_object

PARSE_BYTES = 256 * 1024
SCAN_INLINE_BYTES = 1024 * 1024
MAX_DEPTH = 1000

# A JSON string, or a bracket. Possessive, so that a string without an end costs one pass.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]]', re.DOTALL)
_COLON = re.compile(rb"[ \t\r\n]*+:[ \t\r\n]*+")


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
    model: object = None
    depth = 0
    for match in _TOKEN.finditer(body):
        first = body[match.start()]
        if first in b"{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise UsageError(f"The request body is nested more than {MAX_DEPTH} deep.")
        elif first in b"}]":
            depth -= 1
        elif depth == 1 and _names_model(match.group()):
            colon = _COLON.match(body, match.end())
            if colon is not None:
                model = _value(body, colon.end())
    return model


def _names_model(token: bytes) -> bool:
    """Whether a JSON string says `model`, escapes included."""
    if token == b'"model"':
        return True
    if b"\\" not in token or len(token) > 64:
        return False
    try:
        return orjson.loads(token) == "model"
    except orjson.JSONDecodeError:
        return False


def _value(body: bytes, start: int) -> object:
    """The string at `start`; True stands for any other value, None for null."""
    if body.startswith(b"null", start):
        return None
    match = _TOKEN.match(body, start)
    if match is None or body[start : start + 1] != b'"':
        return True
    try:
        return orjson.loads(match.group())
    except orjson.JSONDecodeError:
        raise UsageError("The request body is not valid JSON: 'model' cannot be read.") from None
