"""What a wire format is: a request made of ours, and a reader that makes ours of its reply."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from fastchat.serve.providers.endpoint_file import Entry

_END_OF_EVENT = re.compile(rb"\r?\n\r?\n")


class Reader(Protocol):
    """Makes OpenAI's form of one reply."""

    def whole(self, value: dict[str, Any]) -> dict[str, Any]:
        """The reply of a plain request.

        Raises:
            FastChatError: it is a failure in the form of an answer.
        """
        ...

    def events(self, data: bytes) -> bytes:
        """The events that a piece of the stream becomes; `data` holds whole events.

        Raises:
            FastChatError: the provider tells a failure in the stream.
        """
        ...

    def end(self) -> bytes:
        """What follows the stream's last byte.

        Raises:
            FastChatError: it ended before the answer did.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    """A request as the provider wants it."""

    route: str
    value: dict[str, Any]
    reader: Reader
    ignored: tuple[str, ...] = ()
    """Fields of the client's request that this provider has no use for."""


class Wire(Protocol):
    """One wire format."""

    def request(self, entry: Entry, path: str, body: dict[str, Any]) -> WireRequest:
        """The request for a body sent to our route `path`.

        Raises:
            UsageError: this provider cannot do what is asked.
        """
        ...


def payloads(data: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects of whole server-sent events."""
    for event in _END_OF_EVENT.split(data):
        lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
        text = b"\n".join(lines)
        if not text or text == b"[DONE]":
            continue
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        if isinstance(value, dict):
            yield value


def numbers(body: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Those of the body's fields that are given, under the provider's names."""
    return {theirs: body[ours] for ours, theirs in names.items() if body.get(ours) is not None}


def unused(body: dict[str, Any], used: set[str]) -> tuple[str, ...]:
    """Fields that were given and have no effect."""
    always = {"model", "messages", "stream", "stream_options", "user", "n"}
    neutral = (None, False, 0, 0.0, {}, [])
    return tuple(sorted(k for k, v in body.items() if k not in used | always and v not in neutral))
