"""A provider's model as an endpoint of the gateway: asked, tried again, its failures told as ours.

Its key goes into one header of the requests to its address, and nowhere else.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from fastchat.errors import (
    BusyError,
    FastChatError,
    ProviderError,
    RateLimitError,
    UpstreamTimeoutError,
    UsageError,
)
from fastchat.serve.asgi import json_body, parse_json_object
from fastchat.serve.connection import BrokenError, ConnectError, Connection, Headers
from fastchat.serve.endpoints import Endpoint
from fastchat.serve.providers.answers import as_events
from fastchat.serve.providers.anthropic_wire import AnthropicWire
from fastchat.serve.providers.cohere_wire import CohereWire
from fastchat.serve.providers.endpoint_file import Entry
from fastchat.serve.providers.gemini_wire import GeminiWire
from fastchat.serve.providers.openai_wire import OpenAIWire
from fastchat.serve.providers.wire import Wire, WireRequest
from fastchat.serve.upstream import Origin

log = logging.getLogger(__name__)

INLINE_BYTES = 256 * 1024
FAILURE_LIMIT_BYTES = 1024 * 1024
RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504, 529})
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 5.0
SHOWN_LENGTH = 300
_FIELD_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

WIRES: dict[str, Wire] = {
    "openai": OpenAIWire(),
    "anthropic": AnthropicWire(),
    "gemini": GeminiWire(),
    "cohere": CohereWire(),
}


class RemoteRequest:
    """One request to a provider, and the reading of its reply."""

    def __init__(self, wire: WireRequest, *, wants_events: bool, with_usage: bool) -> None:
        self.wire = wire
        self.data = json_body(wire.value)
        self.wants_events = wants_events
        self._with_usage = with_usage

    def is_events(self, connection: Connection) -> bool:
        """Whether the reply comes as a stream; else one that is wanted is made of the whole."""
        kind = connection.header(b"content-type") or b""
        return kind.startswith(b"text/event-stream") and self.wants_events

    def reply(self, data: bytes) -> bytes:
        """The client's reply for the provider's.

        Raises:
            ProviderError: it is not what it should be.
        """
        with _readable():
            value = orjson.loads(data)
            if not isinstance(value, dict):
                raise TypeError("the reply is no object")
            reply = self.wire.reader.whole(value)
            if self.wants_events:
                return as_events(reply, with_usage=self._with_usage)
            return data if reply is value else orjson.dumps(reply)

    def events(self, data: bytes) -> bytes:
        """The client's events for the provider's."""
        with _readable():
            return self.wire.reader.events(data)

    def end(self) -> bytes:
        """What follows the provider's last event.

        Raises:
            ProviderError: the stream ended too early.
        """
        return self.wire.reader.end()

    def headers(self) -> Headers:
        """The head of the client's reply."""
        kind = b"text/event-stream; charset=utf-8" if self.wants_events else b"application/json"
        headers: Headers = [(b"content-type", kind)]
        # The names are the client's own words, and a header is no place for all of those.
        if names := [name for name in self.wire.ignored if _FIELD_NAME.fullmatch(name)]:
            headers.append((b"x-fastchat-ignored", ", ".join(names[:50]).encode("ascii")))
        return headers


class Remote:
    """One model of an endpoint file."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        lengths = ((entry.name, entry.context_length),) if entry.context_length else ()
        self.endpoint = Endpoint(
            name=f"remote:{entry.name}",
            model_names=(entry.name,),
            check="never",
            multimodal=entry.vision_arena,
            context_lengths=lengths,
            max_running=entry.concurrency,
        )
        self.origin = Origin(entry.base_url, headers=_headers(entry))
        self._wire = WIRES[entry.kind.wire]
        self._system = _system_text(entry.model) if entry.custom_system_prompt else ""
        self._n_running = 0

    async def request(self, path: str, body: bytes) -> RemoteRequest:
        """The provider's request for a body sent to our route `path`.

        Raises:
            UsageError: this provider cannot do what is asked.
        """
        if len(body) <= INLINE_BYTES:
            return self._request(path, body)
        return await asyncio.to_thread(self._request, path, body)

    @contextlib.asynccontextmanager
    async def asked(
        self, request: RemoteRequest, *, attach: Callable[[Connection], None]
    ) -> AsyncGenerator[Connection]:
        """The connection on which a good reply comes.

        Args:
            attach: is called with every connection that is tried, and may abort it.

        Raises:
            BusyError: as many requests as the entry allows are under way.
            FastChatError: the provider cannot be reached, or refused or failed the request.
        """
        limit = self.entry.concurrency
        if limit is not None and self._n_running >= limit:
            raise BusyError(f"{self.entry.name!r} answers {limit} requests at a time; try again.")
        self._n_running += 1
        connection: Connection | None = None
        try:
            connection = await self._send(request, attach)
            yield connection
        finally:
            self._n_running -= 1
            if connection is not None:
                connection.release()

    async def _send(
        self, request: RemoteRequest, attach: Callable[[Connection], None]
    ) -> Connection:
        """Asks until a reply is good, or as often as the entry says."""
        wait_s = FIRST_WAIT_S
        for left in range(self.entry.max_retries, -1, -1):
            try:
                connection = await self.origin.send(
                    "POST", request.wire.route, request.data, attach=attach
                )
                if connection.status < 300:
                    return connection
                error = await self._failure(connection)
                if connection.status not in RETRY_STATUS or not left:
                    raise error
                asked_s = error.retry_after_s if isinstance(error, RateLimitError) else 0
                if (asked_s or 0) > LONGEST_WAIT_S:
                    raise error
                wait_s = max(wait_s, asked_s or 0)
            except (ConnectError, BrokenError):
                if not left:
                    raise
            await asyncio.sleep(min(wait_s, LONGEST_WAIT_S))
            wait_s *= 2
        raise AssertionError("the last try has returned or raised")

    def _request(self, path: str, body: bytes) -> RemoteRequest:
        value = parse_json_object(body)
        is_chat = path == "/v1/chat/completions"
        if is_chat and self._system and isinstance(value.get("messages"), list):
            _add_system(value["messages"], self._system)
        for name, extra in (self.entry.recommended_config.get("extra_body") or {}).items():
            value.setdefault(name, extra)
        if self.entry.fixed_temperature is not None:
            value["temperature"] = self.entry.fixed_temperature
        wants_events = value.get("stream") is True
        if wants_events and not self.entry.kind.streams and not is_chat:
            raise UsageError(f"{self.entry.name!r} streams chat only.", param="stream")
        try:
            wire = self._wire.request(self.entry, path, value)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UsageError("A field of the request is not of the type that it must be.") from None
        options = value.get("stream_options")
        with_usage = isinstance(options, dict) and options.get("include_usage") is True
        return RemoteRequest(wire, wants_events=wants_events, with_usage=with_usage)

    async def _failure(self, connection: Connection) -> FastChatError:
        """What a client is told of a provider's refusal; nothing of the server's own affairs."""
        try:
            data = await connection.read_all(FAILURE_LIMIT_BYTES)
        finally:
            connection.release()
        status, name = connection.status, self.entry.name
        message = self._message(data)
        log.warning("provider refused: model=%s status=%d", name, status)
        match status:
            case 400 | 413 | 415 | 422:
                return UsageError(f"The provider of {name!r} refused the request: {message}")
            case 401 | 402 | 403:
                return ProviderError(
                    f"The provider of {name!r} refused this server's key; its operator must "
                    "correct that."
                )
            case 404:
                return ProviderError(
                    f"The provider of {name!r} does not know the model or route; the operator "
                    "must correct the endpoint file."
                )
            case 408 | 504:
                return UpstreamTimeoutError(f"The provider of {name!r} did not answer in time.")
            case 429:
                error: FastChatError = RateLimitError(
                    f"The provider of {name!r} takes no more requests from this server now."
                )
                error.retry_after_s = _seconds(connection.header(b"retry-after")) or 10
                return error
            case _:
                return ProviderError(f"The provider of {name!r} failed (status {status}).")

    def _message(self, data: bytes) -> str:
        """The provider's own words on what is wrong with a request, without the key."""
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            return "it gave no reason."
        value = value[0] if isinstance(value, list) and value else value
        error = value.get("error", value) if isinstance(value, dict) else None
        text = error.get("message") if isinstance(error, dict) else error
        if not isinstance(text, str) or not text.strip():
            return "it gave no reason."
        if self.entry.key:
            text = text.replace(self.entry.key, "***")
        shown = "".join(c if c.isprintable() else " " for c in text)
        return shown[:SHOWN_LENGTH]


@contextlib.contextmanager
def _readable():
    """Turns what a strange reply does to its reader into an error that says so."""
    try:
        yield
    except FastChatError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        raise ProviderError("The provider's reply cannot be read.") from None


def _headers(entry: Entry) -> list[tuple[str, str]]:
    kind = entry.kind
    headers = [("Accept-Encoding", "identity"), *kind.headers.items()]
    if entry.key:
        headers.append((kind.key_header, kind.key_form.format(key=entry.key)))
    if entry.client_name and entry.client_name.isascii():
        headers.append(("X-Client-Name", entry.client_name))
    return headers


def _add_system(messages: list[Any], text: str) -> None:
    roles = {m.get("role") for m in messages if isinstance(m, dict)}
    if not roles & {"system", "developer"}:
        messages.insert(0, {"role": "system", "content": text})


def _system_text(model: str) -> str:
    """The system text of the template of the model's family."""
    from fastchat.families.registry import registry

    known = registry()
    template = known.template(known.recognise(model).serving_template)
    day = datetime.now(UTC).strftime("%B %d, %Y")
    return template.system_message.replace("{{currentDateTime}}", day)


def _seconds(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and int(value) < 86400 else None
