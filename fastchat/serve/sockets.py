"""The sockets that our servers listen on."""

import errno
import socket
from collections.abc import Sequence

from fastchat.errors import UsageError

_BACKLOG = 2048
"""As uvicorn's own."""
_TCP_UNSENT_BYTES = 65536
"""What the kernel takes from us beyond what the peer has room for (TCP_NOTSENT_LOWAT): a
stream that nobody reads is noticed after this much."""
_TCP_USER_TIMEOUT_MS = 60_000
"""A peer that acknowledges nothing, or has no room, for this long is cut off."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Bound sockets; for `localhost` on both address families where they exist.

    Raises:
        UsageError: nothing could be bound, or one of the addresses is taken, so that clients of
            this server would reach another one; the message says why.
    """
    sockets: list[socket.socket] = []
    reason: OSError | None = None
    is_taken = False
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        found, reason = [], error
    for family, kind, proto, _, address in sorted(found, key=lambda item: item[0]):
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bound_peers(listener)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if sockets and port == 0:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            listener.bind(address)
            sockets.append(listener)
        except OSError as error:
            listener.close()
            reason = error
            if is_taken := error.errno == errno.EADDRINUSE:
                break
    if not sockets or is_taken:
        for listener in sockets:
            listener.close()
        if sockets and port == 0:  # a free port of one family is another server's in the other
            return bind(host, port)
        raise _cannot_listen(host, port, reason, "--port" if found else "--host")
    return sockets


def listen(sockets: Sequence[socket.socket], host: str, port: int) -> None:
    """Begins to listen, before which another server that starts could bind the same address.

    Clients that connect from now on wait until the server accepts them.

    Raises:
        UsageError: another server began first.
    """
    try:
        for listener in sockets:
            listener.listen(_BACKLOG)
    except OSError as error:
        for listener in sockets:
            listener.close()
        raise _cannot_listen(host, port, error, "--port") from None


def _cannot_listen(host: str, port: int, reason: OSError | None, remedy: str) -> UsageError:
    why = reason.strerror if reason else "no such address"
    return UsageError(f"Cannot listen on {host}:{port}: {why}; choose another {remedy}.")


def _bound_peers(listener: socket.socket) -> None:
    """Sets limits that connections accepted from `listener` inherit, where the system has them."""
    for name, value in (
        ("TCP_NOTSENT_LOWAT", _TCP_UNSENT_BYTES),
        ("TCP_USER_TIMEOUT", _TCP_USER_TIMEOUT_MS),
    ):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
