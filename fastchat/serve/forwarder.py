"""Passes a request on to an endpoint and the reply back, bytes as they are.

A request that fails before a byte of the reply was sent is tried once at another endpoint;
afterwards a stream ends with an error event. The client's leaving closes the connection to
the endpoint at once, which ends the work there.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Message, Receive, Send

from fastchat.errors import (
    AuthenticationError,
    FastChatError,
    ProviderError,
    UpstreamTimeoutError,
)
from fastchat.serve import metering
from fastchat.serve.asgi import (
    SSE_DONE,
    SSE_KEEPALIVE,
    SSE_KEEPALIVE_S,
    SSE_STALL_S,
    disconnected,
    sse_error,
)
from fastchat.serve.connection import BrokenError, ConnectError, Connection, Headers
from fastchat.serve.endpoints import Endpoint
from fastchat.serve.exchange import ClientLeftError, Exchange, HungError
from fastchat.serve.gateway_replies import no_endpoint, send_error, send_whole, shown_name
from fastchat.serve.limits import Caller
from fastchat.serve.patience import lost_s
from fastchat.serve.providers.remote import Remote
from fastchat.serve.roster import Roster

log = logging.getLogger(__name__)

REPLY_LIMIT_BYTES = 256 * 1024 * 1024
EVENT_LIMIT_BYTES = 16 * 1024 * 1024
SWEEP_S = 0.25
SUSPECT_S = 1.0
ATTEMPTS = 2

BUSY_STATUS = frozenset({429, 502, 503})
REFUSED_STATUS = frozenset({401, 403, 407})
"""An endpoint wants a key or token that this server does not have. The client's own key was
right, and must not be told that it is not."""
KEPT_HEADERS = frozenset(
    {
        b"content-type",
        b"cache-control",
        b"retry-after",
        b"x-accel-buffering",
        b"x-fastchat-ignored",
        b"x-fastchat-truncated",
        b"x-request-id",
    }
)


@dataclass(slots=True)
class Tally:
    """What a gateway has seen of its endpoints, for the metrics."""

    retries: int = 0
    failures: int = 0
    disconnects: int = 0
    broken_streams: int = 0


class Forwarder:
    """Forwards requests to the endpoints of a roster.

    Args:
        timeout_s: seconds without a byte after which an endpoint is given up.
    """

    def __init__(
        self, roster: Roster, *, timeout_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.roster = roster
        self.timeout_s = timeout_s
        self.tally = Tally()
        self._router = roster.router
        self._now = now
        self._live: set[Exchange] = set()

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return len(self._live)

    async def forward(
        self,
        model: str,
        path: str,
        *,
        body: bytes,
        receive: Receive,
        send: Send,
        caller: Caller | None = None,
    ) -> int:
        """Answers one request, whatever happens; gives the status.

        `body` must have been read from `receive`. 499 means that the client left.

        Args:
            caller: the key whose limits hold and which is charged for what the reply used.
        """
        exchange = Exchange(model, self._now(), timeout_s=self.timeout_s)
        if caller is None:
            return await self._forward(exchange, path, body=body, receive=receive, send=send)
        exchange.key_id = caller.key_id
        try:
            exchange.meter, body = await metering.start(caller, model, path, body)
        except FastChatError as error:
            return await send_error(send, error)
        status = 500
        try:
            status = await self._forward(exchange, path, body=body, receive=receive, send=send)
        finally:
            exchange.meter.close(failed=status not in (200, 499, 504))
        return status

    def end_key(self, key_id: str) -> None:
        """Ends what is under way for a key that was revoked or has expired."""
        for exchange in tuple(self._live):
            if exchange.key_id == key_id:
                exchange.end(AuthenticationError("The API key was revoked or has expired."))

    async def _forward(
        self, exchange: Exchange, path: str, *, body: bytes, receive: Receive, send: Send
    ) -> int:
        self._live.add(exchange)
        leaving = asyncio.create_task(_watch_client(receive, exchange))
        try:
            return await self._try_endpoints(exchange, path, body=body, send=send)
        except ClientLeftError:
            self.tally.disconnects += 1
            return 499
        except FastChatError as error:
            if exchange.started:
                self.tally.broken_streams += 1
                await send(_part(sse_error(error) + SSE_DONE, more=False))
                return 200
            return await send_error(send, error)
        finally:
            self._live.discard(exchange)
            leaving.cancel()

    async def _try_endpoints(
        self, exchange: Exchange, path: str, *, body: bytes, send: Send
    ) -> int:
        """The status of the first reply that could be had."""
        router = self._router
        tried: list[str] = []
        reason: FastChatError | None = None
        for attempt in range(ATTEMPTS):
            endpoint = router.pick(exchange.model, now=self._now(), avoid=tried)
            if endpoint is None:
                break
            if tried:
                self.tally.retries += 1
            name = endpoint.name
            tried.append(name)
            exchange.endpoint = endpoint
            exchange.moved_at = self._now()
            may_retry = attempt + 1 < ATTEMPTS
            router.start(name)
            try:
                status = await self._attempt(
                    exchange, endpoint, path=path, body=body, send=send, may_retry=may_retry
                )
                if status is not None:
                    return status
            except (ConnectError, BrokenError, HungError) as error:
                self.tally.failures += 1
                router.report_failure(name, now=self._now())
                log.warning("endpoint failed: endpoint=%s reason=%s", name, error.message)
                if exchange.started:
                    raise
                reason = error
            finally:
                router.finish(name)
                exchange.connection = None
        raise no_endpoint(exchange.model, reason)

    async def _attempt(
        self,
        exchange: Exchange,
        endpoint: Endpoint,
        *,
        path: str,
        body: bytes,
        send: Send,
        may_retry: bool,
    ) -> int | None:
        """The status of one endpoint's reply, passed on; None when it asks to go elsewhere."""
        if (remote := self.roster.remotes.get(endpoint.name)) is not None:
            return await self._attempt_remote(
                exchange, remote, path=path, body=body, send=send, may_retry=may_retry
            )
        origin = self.roster.origin(endpoint)
        connection = await origin.send("POST", path, body, attach=exchange.attach)
        try:
            kind = connection.header(b"content-type") or b""
            if kind.startswith(b"text/event-stream"):
                await _pass_events(exchange, connection, send)
                return connection.status
            reply = await connection.read_all(REPLY_LIMIT_BYTES)
        finally:
            connection.release()
        exchange.connection = None
        status = connection.status
        if status in BUSY_STATUS | REFUSED_STATUS and may_retry:
            now = self._now()
            if self._router.is_better_elsewhere(exchange.model, endpoint.name, now=now):
                return None
        if status in REFUSED_STATUS:
            raise refused(exchange.model, endpoint.name, status)
        if exchange.meter is not None:
            exchange.meter.reply(status, reply)
        exchange.started = True
        await send_whole(send, status, _kept(connection.headers), reply)
        return status

    async def _attempt_remote(
        self,
        exchange: Exchange,
        remote: Remote,
        *,
        path: str,
        body: bytes,
        send: Send,
        may_retry: bool,
    ) -> int | None:
        """The status of a provider's reply, passed on; None when another endpoint is better."""
        exchange.timeout_s = remote.entry.timeout_s
        request = await remote.request(path, body)
        try:
            async with remote.asked(request, attach=exchange.attach) as connection:
                if request.is_events(connection):
                    exchange.translation = request
                    await _pass_events(exchange, connection, send)
                    return 200
                reply = request.reply(await connection.read_all(REPLY_LIMIT_BYTES))
        except FastChatError as error:
            name, now = remote.endpoint.name, self._now()
            is_elsewhere = self._router.is_better_elsewhere(exchange.model, name, now=now)
            if error.status in BUSY_STATUS and may_retry and not exchange.started and is_elsewhere:
                return None
            raise
        finally:
            exchange.translation = None
        exchange.connection = None
        if exchange.meter is not None and request.wants_events:
            reply = exchange.meter.events(reply)
        elif exchange.meter is not None:
            exchange.meter.reply(200, reply)
        exchange.started = True
        await send_whole(send, 200, request.headers(), reply)
        return 200

    # ---- time limits of all exchanges, without a timer for each

    async def sweep(self) -> None:
        """Ends what does not move, until cancelled."""
        before = self._now()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self._now()
            ours_s = lost_s(now - before, SWEEP_S)
            before = now
            for exchange in tuple(self._live):
                exchange.moved_at = min(exchange.moved_at + ours_s, now)
                self._look_at(exchange, now)

    def _look_at(self, exchange: Exchange, now: float) -> None:
        connection, endpoint = exchange.connection, exchange.endpoint
        if connection is None or endpoint is None:
            return  # connecting, which has a limit of its own
        if connection.fresh:
            connection.fresh = False
            exchange.moved_at = exchange.kept_at = now
            return
        still_s = now - exchange.moved_at
        if exchange.is_sending:
            if still_s > SSE_STALL_S:
                exchange.end(UpstreamTimeoutError("The reply was not read in time."))
        elif still_s > exchange.timeout_s:
            exchange.end(
                UpstreamTimeoutError(
                    f"The model sent nothing for {exchange.timeout_s:g} seconds; "
                    "try again later, or ask for a stream."
                )
            )
        elif exchange.started:
            if now - exchange.kept_at >= SSE_KEEPALIVE_S:
                exchange.kept_at = now
                connection.nudge()
        elif still_s >= SUSPECT_S:
            self._look_elsewhere(exchange, endpoint, now)

    def _look_elsewhere(self, exchange: Exchange, endpoint: Endpoint, now: float) -> None:
        """Moves a request away from an endpoint that does not even say how it is."""
        if not self._router.is_better_elsewhere(exchange.model, endpoint.name, now=now):
            return
        if self._router.has_failed(endpoint.name):
            assert exchange.connection is not None
            exchange.connection.abort(HungError("The endpoint does not answer."))
        else:
            self.roster.suspect(endpoint.name)


def refused(model: str, name: str, status: int) -> ProviderError:
    """What a client is told when an endpoint lets this server not in; the log has the rest."""
    log.error(
        "endpoint refuses this server: endpoint=%s status=%d; workers want the token of "
        "--worker-token, which is sent to those that beat at the controller",
        name,
        status,
    )
    return ProviderError(
        f"The endpoint of {shown_name(model)} refuses this server; its operator must correct that."
    )


async def _pass_events(exchange: Exchange, connection: Connection, send: Send) -> None:
    """Sends a stream of events on; whole events only, so that it can end at any time."""
    data = await connection.read()
    translation = exchange.translation
    start: Message = {
        "type": "http.response.start",
        "status": connection.status,
        "headers": _kept(connection.headers) if translation is None else translation.headers(),
    }
    exchange.started = True
    await send(start)
    rest = b""
    while not connection.is_drained:
        if not data:  # nudged
            data = SSE_KEEPALIVE
        elif rest or not data.endswith(b"\n\n"):
            data, rest = _whole_events(rest + data)
        if translation is not None and data and data is not SSE_KEEPALIVE:
            data = translation.events(data)
        if exchange.meter is not None and data:
            data = exchange.meter.events(data)
        if data:
            exchange.is_sending = True
            await send({"type": "http.response.body", "body": data, "more_body": True})
            exchange.is_sending = False
        data = await connection.read()
    data = rest + data
    if translation is not None:
        data = translation.events(data) + translation.end()
    if exchange.meter is not None and data:
        data = exchange.meter.events(data)
    await send({"type": "http.response.body", "body": data})


def _whole_events(data: bytes) -> tuple[bytes, bytes]:
    """`data` up to the end of its last whole event, and the rest.

    Raises:
        BrokenError: the rest is too long for an event.
    """
    ends = [data.rfind(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if mark in data]
    cut = max(ends, default=0)
    if len(data) - cut > EVENT_LIMIT_BYTES:
        raise BrokenError("An event of the endpoint is too long.")
    return data[:cut], data[cut:]


def _kept(headers: Headers) -> Headers:
    """The headers of an endpoint's reply that concern the client."""
    return [header for header in headers if header[0] in KEPT_HEADERS]


async def _watch_client(receive: Receive, exchange: Exchange) -> None:
    await disconnected(receive)
    exchange.end(ClientLeftError("The client left."))


def _part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}
