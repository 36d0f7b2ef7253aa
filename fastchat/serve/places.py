"""Where the processes of a platform listen, and whether they can."""

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from fastchat.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one process listens, and the flag that says so."""

    name: str
    host: str
    port: int
    flag: str

    @property
    def url(self) -> str:
        """The address by which a process of this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def check_ports(places: Iterable[Place]) -> None:
    """Binds each place for a moment.

    Raises:
        UsageError: one is taken, or its host is not an address of this machine.
    """
    for place in places:
        try:
            found = socket.getaddrinfo(
                place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            bound = [_is_free(family, address) for family, _, _, _, address in found]
        except OSError as error:
            why = error.strerror or str(error)
            raise UsageError(
                f"{place.name} cannot listen on {place.host}:{place.port} ({why}); "
                f"choose another {place.flag}, or end what runs there "
                "(python3 -m fastchat.serve.shutdown_serve ends our own)."
            ) from None
        if not any(bound):
            raise UsageError(f"{place.name}: {place.host} is no address of this machine.")


def _is_free(family: int, address: tuple[object, ...]) -> bool:
    """Whether something could listen there; False when this machine lacks the address.

    Raises:
        OSError: the port is taken or not allowed.
    """
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(address)
            # Binding with SO_REUSEADDR may succeed beside a bound socket; listening may not.
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return False
            raise
    return True
