"""One request on its way through the gateway: where it is, and how it is ended."""

from fastchat.errors import FastChatError, UnavailableError
from fastchat.serve import metering
from fastchat.serve.connection import Connection
from fastchat.serve.endpoints import Endpoint
from fastchat.serve.providers.remote import RemoteRequest


class ClientLeftError(FastChatError):
    """Nobody waits for the reply any more."""


class HungError(UnavailableError):
    """The endpoint accepts connections but does not answer."""


class Exchange:
    """One request on its way: where it is, and since when nothing moved."""

    __slots__ = (
        "connection",
        "ended",
        "endpoint",
        "is_sending",
        "kept_at",
        "key_id",
        "meter",
        "model",
        "moved_at",
        "started",
        "timeout_s",
        "translation",
    )

    def __init__(self, model: str, now: float, *, timeout_s: float) -> None:
        self.model = model
        self.endpoint: Endpoint | None = None
        self.connection: Connection | None = None
        self.ended: FastChatError | None = None
        self.started = False  # a byte of the reply was sent
        self.is_sending = False  # waiting for the client to take bytes
        self.moved_at = now
        self.kept_at = now
        self.key_id: str | None = None
        self.meter: metering.Meter | None = None
        self.timeout_s = timeout_s
        self.translation: RemoteRequest | None = None

    def attach(self, connection: Connection) -> None:
        self.connection = connection
        if self.meter is not None:
            self.meter.sent()
        if self.ended is not None:
            connection.abort(self.ended)

    def end(self, error: FastChatError) -> None:
        """Stops the exchange for good."""
        self.ended = error
        if self.connection is not None:
            self.connection.abort(error)
