"""The sockets that servers listen on: whoever asks an address reaches the server that has it."""

import socket
from typing import Any

import pytest

from fastchat.errors import UsageError
from fastchat.serve.sockets import bind, listen


@pytest.fixture
def both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """`localhost` means both loopback addresses, whatever the machine's table of hosts says."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")

    def found(host: str, port: int, **_: Any) -> list[Any]:
        stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [
            (socket.AF_INET6, *stream, ("::1", port, 0, 0)),
            (socket.AF_INET, *stream, ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", found)


def close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


@pytest.mark.usefixtures("both_families")
def test_localhost_is_bound_on_both_families() -> None:
    sockets = bind("localhost", 0)
    assert [one.family for one in sockets] == [socket.AF_INET, socket.AF_INET6]
    close(sockets)


@pytest.mark.usefixtures("both_families")
def test_a_free_port_is_free_on_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server takes the number on the second family after it was found on the first."""
    seen: list[socket.socket] = []
    others: list[socket.socket] = []

    def look(listener: socket.socket) -> None:
        seen.append(listener)
        if len(seen) == 2:
            port = seen[0].getsockname()[1]
            others.append(socket.create_server(("::1", port), family=socket.AF_INET6))

    monkeypatch.setattr("fastchat.serve.sockets._bound_peers", look)
    sockets = bind("localhost", 0)
    assert [one.family for one in sockets] == [socket.AF_INET, socket.AF_INET6]
    ports = {one.getsockname()[1] for one in sockets}
    assert len(ports) == 1 and ports != {others[0].getsockname()[1]}
    close(sockets + others)


@pytest.mark.usefixtures("both_families")
@pytest.mark.parametrize("taken", ["127.0.0.1", "::1"])
def test_a_server_on_one_family_is_not_shadowed_on_the_other(taken: str) -> None:
    """Clients of `localhost` would reach the one server or the other."""
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with (
        socket.create_server((taken, 0), family=family) as other,
        pytest.raises(UsageError, match="Cannot listen on localhost"),
    ):
        bind("localhost", other.getsockname()[1])


def test_of_two_that_start_at_once_one_is_told() -> None:
    """Both bind, since neither listens yet; the clients of the second would ask the first."""
    first = bind("127.0.0.1", 0)
    port = first[0].getsockname()[1]
    second = bind("127.0.0.1", port)
    listen(first, "127.0.0.1", port)
    with pytest.raises(UsageError, match=f"Cannot listen on 127.0.0.1:{port}: .*--port"):
        listen(second, "127.0.0.1", port)
    assert second[0].fileno() == -1  # closed: it takes no connection
    close(first)
