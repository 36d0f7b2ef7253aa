"""Reads from a passing reply what it used, and closes the request's charge with that.

A plain reply says it in its `usage`, a stream in the event that `stream_options.include_usage`
asks for: where the client did not ask, we do, and keep the event for ourselves. Where an
endpoint says nothing, the amount is estimated from the lengths and marked so.
"""

import asyncio
import json
import re
from typing import Any

import orjson

from fastchat.serve.asgi import json_body
from fastchat.serve.limits import BYTES_PER_TOKEN, Caller, Charge, expected_tokens

INLINE_BYTES = 1024 * 1024
STREAMING_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
COUNTED_PATHS = STREAMING_PATHS | {"/v1/embeddings"}
"""Routes whose replies cost tokens; others are counted as requests only."""

_USAGE = re.compile(rb'"usage"[ \t\r\n]*:[ \t\r\n]*\{')
_ENDS = (b"\n\n", b"\r\n\r\n")
_DATA = re.compile(rb"(?:^|\n)data: ?([^\r\n]*)")
_DATA_URL = re.compile(rb'"data:[^"]{0,200};base64,[^"]*"')
"""A picture is no text; what it costs is in the reply."""
_DECODER = json.JSONDecoder()


class Meter:
    """Measures one request of a key.

    Args:
        asks_usage: we asked for the usage event, so the client must not see it.
    """

    def __init__(self, charge: Charge, *, n_bytes: int, costs: bool, asks_usage: bool) -> None:
        self._charge = charge
        self._prompt = expected_tokens(n_bytes, 0) if costs else 0
        self._costs = costs
        self._asks_usage = asks_usage
        self._usage: tuple[int, int] | None = None
        self._was_sent = False
        self._is_answered = False
        self._n_events = 0
        self._n_bytes = 0
        self._frame_bytes = 0

    def sent(self) -> None:
        """The request is with an endpoint: from now on its work counts."""
        self._was_sent = True

    def reply(self, status: int, body: bytes) -> None:
        """Takes a whole reply into account."""
        if not 200 <= status < 300:
            self._was_sent = False
            return
        self._is_answered = True
        if self._costs:
            self._usage = usage_in(body)
            self._n_bytes = len(body)

    def events(self, data: bytes) -> bytes:
        """Takes whole events into account; gives those that the client sees."""
        self._is_answered = True
        self._n_bytes += len(data)
        self._n_events += data.count(b"data:")
        if not self._frame_bytes:
            self._frame_bytes = len(data) // max(1, self._n_events)
        found = _USAGE.search(data) if b'"usage"' in data else None
        if found is None:
            return data
        start = _start_of_event(data, found.start())
        kept = [event for event in _split(data[start:]) if not self._is_ours(event)]
        return data[:start] + b"".join(kept)

    def close(self, *, failed: bool) -> None:
        """Closes the charge.

        Args:
            failed: no endpoint could answer; what was sent to one that failed is free.
        """
        if self._usage is not None:
            prompt, completion = self._usage
            self._charge.settle(prompt=prompt, completion=completion)
        elif self._is_answered or (self._was_sent and not failed):
            completion = self._estimate()
            prompt = self._prompt
            self._charge.settle(prompt=prompt, completion=completion, is_estimated=self._costs)
        else:
            self._charge.cancel()

    def _is_ours(self, event: bytes) -> bool:
        """Notes an event's usage; whether it is the one that only we asked for."""
        found = _DATA.search(event)
        if found is None or _USAGE.search(event) is None:
            return False
        try:
            value = orjson.loads(found.group(1))
        except orjson.JSONDecodeError:
            return False
        if not isinstance(value, dict) or (usage := _amounts(value.get("usage"))) is None:
            return False
        self._usage = usage
        return self._asks_usage and not value.get("choices")

    def _estimate(self) -> int:
        """Tokens of an answer by its length: an event holds at least one, beside its frame."""
        if not self._costs:
            return 0
        if not self._n_events:
            return self._n_bytes // BYTES_PER_TOKEN
        text_bytes = max(0, self._n_bytes - self._n_events * self._frame_bytes)
        return max(self._n_events, text_bytes // BYTES_PER_TOKEN)


async def start(caller: Caller, model: str, path: str, body: bytes) -> tuple[Meter, bytes]:
    """The meter of a request, and the body to send in the place of `body`.

    Raises:
        ForbiddenError: the key may not use the model.
        RateLimitError: a limit of the key is reached.
        UsageError: the body is nested too deeply.
    """
    costs = path in COUNTED_PATHS
    look = path in STREAMING_PATHS
    value: Any = None
    if look:
        value = await _parsed(body)
    completion = _completion_limit(value)
    n_bytes = len(body)
    if b";base64," in body:
        n_bytes -= sum(len(found.group()) for found in _DATA_URL.finditer(body))
    tokens = expected_tokens(n_bytes, completion) if costs else 0
    changed = with_usage(body, value) if look else None
    charge = caller.admit(model, tokens=tokens)
    meter = Meter(charge, n_bytes=n_bytes, costs=costs, asks_usage=changed is not None)
    return meter, body if changed is None else changed


def with_usage(body: bytes, value: Any) -> bytes | None:
    """`body`, which means `value`, with usage asked for; None where nothing is to be added."""
    if not isinstance(value, dict) or value.get("stream") is not True:
        return None
    options = value.get("stream_options")
    if options is None and "stream_options" not in value:
        end = body.rindex(b"}")  # the client's own bytes stay as they are
        return body[:end] + b',"stream_options":{"include_usage":true}' + body[end:]
    if options is not None and (not isinstance(options, dict) or options.get("include_usage")):
        return None
    return json_body(value | {"stream_options": (options or {}) | {"include_usage": True}})


def usage_in(body: bytes) -> tuple[int, int] | None:
    """Prompt and completion tokens of a reply; None where it does not say."""
    end = len(body)
    for _ in range(3):  # it stands near the end, and once
        end = body.rfind(b'"usage"', 0, end)
        if end < 0 or (found := _USAGE.match(body, end)) is None:
            continue
        try:
            text = body[found.end() - 1 : found.end() + 16384].decode("utf-8", "replace")
            value, _ = _DECODER.raw_decode(text)
        except ValueError:
            continue
        if (usage := _amounts(value)) is not None:
            return usage
    return None


def _amounts(usage: Any) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    prompt = _count(usage.get("prompt_tokens"))
    completion = _count(usage.get("completion_tokens") or 0)
    return None if prompt is None or completion is None else (prompt, completion)


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if is_count else None


def _completion_limit(value: Any) -> int:
    """The tokens an answer may have at most, where the request says it."""
    if not isinstance(value, dict):
        return 0
    limit = _count(value.get("max_completion_tokens") or value.get("max_tokens")) or 0
    return min(limit * (_count(value.get("n")) or 1), 2**31)


async def _parsed(body: bytes) -> Any:
    """The body's value; None when it is none, which the endpoint will say."""
    try:
        if len(body) <= INLINE_BYTES:
            return orjson.loads(body)
        return await asyncio.to_thread(orjson.loads, body)
    except orjson.JSONDecodeError:
        return None


def _start_of_event(data: bytes, place: int) -> int:
    """Where the event begins that stands at `place`."""
    ends = ((data.rfind(mark, 0, place), len(mark)) for mark in _ENDS)
    return max((at + length for at, length in ends if at >= 0), default=0)


def _split(data: bytes) -> list[bytes]:
    """Single events, each with its end."""
    parts = re.split(rb"(\r?\n\r?\n)", data)
    return [b"".join(parts[i : i + 2]) for i in range(0, len(parts), 2)]
