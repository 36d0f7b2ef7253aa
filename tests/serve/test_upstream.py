import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from fake_endpoint import FakeEndpoint
from live import LIMIT_S, until

from fastchat.errors import UnavailableError, UsageError
from fastchat.serve.connection import (
    HIGH_WATER_BYTES,
    MAX_HEAD_BYTES,
    BrokenError,
    ConnectError,
    Connection,
)
from fastchat.serve.upstream import Origin, Origins, _is_disguised, fetch_json


@contextlib.asynccontextmanager
async def replying(*replies: bytes, close: bool = False) -> AsyncIterator[Origin]:
    """A server that sends the next reply, byte for byte, to each request it reads."""
    waiting = list(replies)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while waiting:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(waiting.pop(0))
                await writer.drain()
                if close:
                    break
            else:
                await reader.read(1)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    origin = Origin(f"http://127.0.0.1:{port}")
    try:
        yield origin
    finally:
        origin.close()
        server.close()
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*tasks)


async def get(origin: Origin) -> tuple[int, bytes]:
    connection = await origin.send("GET", "/")
    body = await connection.read_all(1 << 20)
    connection.release()
    return connection.status, body


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (OK, b"ok"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
            b"ok",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, b"ok"),
    ],
)
async def test_a_reply_is_read_whole_and_its_connection_kept(reply: bytes, body: bytes) -> None:
    async with replying(reply, OK) as origin:
        assert await get(origin) == (200, body)
        assert await get(origin) == (200, b"ok")


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async with replying(b"HTTP/1.1 200 OK\r\n\r\nall of it", close=True) as origin:
        assert await get(origin) == (200, b"all of it")


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * (MAX_HEAD_BYTES + 1),
    ],
)
async def test_a_broken_reply_is_an_error(reply: bytes) -> None:
    async with replying(reply, close=True) as origin:
        with pytest.raises(BrokenError):
            await get(origin)


async def test_a_closed_kept_connection_is_replaced_unseen() -> None:
    async with FakeEndpoint("m") as endpoint:
        origin = Origin(endpoint.url)
        assert (await _models(origin)).status == 200
        await endpoint.close()
        await endpoint.listen()
        assert (await _models(origin)).status == 200
        assert endpoint.n_connections == 2
        origin.close()


async def _models(origin: Origin) -> Connection:
    connection = await origin.send("GET", "/v1/models")
    await connection.read_all(1 << 20)
    connection.release()
    return connection


async def test_many_requests_one_after_the_other_use_one_connection() -> None:
    async with FakeEndpoint("m") as endpoint:
        origin = Origin(endpoint.url)
        for _ in range(20):
            await _models(origin)
        assert endpoint.n_connections == 1
        origin.close_idle(now=float("inf"))
        await _models(origin)
        assert endpoint.n_connections == 2
        origin.close()


async def test_nobody_listening_is_an_error_of_its_own() -> None:
    async with FakeEndpoint("m") as endpoint:
        url = endpoint.url
    with pytest.raises(ConnectError) as caught:
        await Origin(url).send("GET", "/")
    assert url not in caught.value.message


async def test_a_host_that_cannot_be_found_is_the_same_error() -> None:
    with pytest.raises(ConnectError):
        await Origin("http://nowhere.invalid:1", connect_timeout_s=5).send("GET", "/")


@pytest.mark.parametrize(
    ("host", "peer", "disguised"),
    [
        ("rebound.example", "169.254.169.254", True),
        ("rebound.example", "::ffff:169.254.169.254", True),
        ("rebound.example", "fe80::1%eth0", True),
        ("169.254.169.254", "169.254.169.254", False),
        ("localhost", "127.0.0.1", False),
    ],
)
def test_a_name_must_not_come_to_mean_a_link_local_address(
    host: str, peer: str, disguised: bool
) -> None:
    assert _is_disguised(host, (peer, 80)) is disguised


async def test_a_reader_that_stops_holds_the_sender_back() -> None:
    size = 32 * 1024 * 1024
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size
    async with replying(head + bytes(size)) as origin:
        connection = await origin.send("GET", "/")
        await until(lambda: connection._paused)
        assert connection._buffered < HIGH_WATER_BYTES + 1024 * 1024
        assert len(await connection.read_all(size)) == size
        connection.release()


async def test_an_abort_reaches_whoever_waits() -> None:
    async with replying(b"") as origin:
        attached: list[Connection] = []
        task = asyncio.create_task(origin.send("GET", "/", attach=attached.append))
        await until(lambda: attached)
        attached[0].abort(UsageError("enough"))
        with pytest.raises(UsageError, match="enough"):
            await task


async def test_a_nudge_lets_a_waiting_reader_do_something_else() -> None:
    async with replying(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n") as origin:
        connection = await origin.send("GET", "/")
        task = asyncio.create_task(connection.read())
        await asyncio.sleep(0)
        connection.nudge()
        assert await task == b""
        assert not connection.is_drained
        connection.release()


async def test_a_reply_beyond_the_limit_is_given_up() -> None:
    async with replying(OK) as origin:
        connection = await origin.send("GET", "/")
        with pytest.raises(BrokenError, match="too large"):
            await connection.read_all(1)


async def test_a_second_reply_to_one_request_never_answers_the_next() -> None:
    forged = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"
    async with replying(OK + forged) as origin:
        assert await get(origin) == (200, b"ok")
        assert not origin._idle


async def test_what_comes_between_requests_closes_the_connection() -> None:
    async with FakeEndpoint("m") as endpoint:
        origin = Origin(endpoint.url)
        connection = await _models(origin)
        connection.data_received(OK)
        await until(lambda: not origin._idle)


async def test_json_is_fetched_with_a_token_and_within_a_time() -> None:
    async with FakeEndpoint("m") as endpoint:
        status, value = await fetch_json(endpoint.url, "GET", "/v1/models")
        assert (status, value["data"][0]["id"]) == (200, "m")
        body = {"prompt": "a b c"}
        _, value = await fetch_json(endpoint.url, "POST", "/tokenize", body=body, bearer="t0k")
        assert value["count"] == 3
        assert "authorization: bearer t0k\r\n" in endpoint.heads[-1].lower()
        endpoint.mode = "hung"
        with pytest.raises(UnavailableError, match=r"0\.1 s"):
            await fetch_json(endpoint.url, "GET", "/health", timeout_s=0.1)


async def test_a_reply_that_is_no_json_is_none() -> None:
    async with replying(OK) as origin:
        url = f"http://127.0.0.1:{origin.address.port}"
        assert await fetch_json(url, "GET", "/") == (200, None)


async def test_a_token_cannot_carry_headers() -> None:
    with pytest.raises(UsageError):
        Origin("http://localhost:1", bearer="a\r\nx: y")


async def test_origins_that_are_not_needed_are_closed() -> None:
    async with FakeEndpoint("m") as endpoint:
        origins = Origins()
        await _models(origins.of(endpoint.url))
        assert origins.of(endpoint.url) is origins.of(endpoint.url)
        before = origins.of(endpoint.url)
        origins.close_idle(0.0, keep=())
        assert origins.of(endpoint.url) is not before
        origins.close()
