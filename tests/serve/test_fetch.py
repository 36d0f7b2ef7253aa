"""Pictures by address: what is fetched, and above all what is not."""

import asyncio
import io
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from in_process import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from fastchat.engine.base import GenerationRequest
from fastchat.engine.images import MAX_BYTES, read_picture
from fastchat.errors import UsageError
from fastchat.message import Message
from fastchat.serve.fetch import PictureFetcher, is_public, with_pictures
from tests.engine.seeing_models import picture


def png() -> bytes:
    out = io.BytesIO()
    picture(20, 10, 1).save(out, "PNG")
    return out.getvalue()


class Site:
    """A web server that counts who asks."""

    def __init__(self) -> None:
        self.n_asked = 0
        self.held = asyncio.Event()
        self.app = Starlette(routes=[Route("/{path:path}", self.answer)])

    async def answer(self, request: Request) -> Response:
        self.n_asked += 1
        target = request.query_params.get("to", "")
        match request.path_params["path"]:
            case "picture":
                return Response(png(), media_type="image/png")
            case "to":
                return RedirectResponse(target)
            case "loop":
                return RedirectResponse("/loop")
            case "page":
                return Response("<p>", media_type="text/html")
            case "packed":
                return Response(png(), media_type="image/png", headers={"content-encoding": "gzip"})
            case "endless":
                return StreamingResponse(self._endless(), media_type="image/png")
            case "slow":
                await self.held.wait()
        return Response(status_code=404)

    async def _endless(self) -> AsyncIterator[bytes]:
        while True:
            yield b"\0" * (1 << 20)
            await asyncio.sleep(0)  # so that the end of the connection is seen


@asynccontextmanager
async def fetching(**options: Any) -> AsyncIterator[PictureFetcher]:
    """A fetcher that is patient, unless `options` say otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastchat.serve.fetch.CONNECT_TIMEOUT_S", 600.0)
        fetcher = PictureFetcher(**{"timeout_s": 600.0} | options)
    try:
        yield fetcher
    finally:
        await fetcher.close()


def anyone(_: Any) -> bool:
    return True


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("ff02::1", False),
    ],
)
def test_only_addresses_of_the_open_network_are_public(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.slow
async def test_a_picture_is_fetched_through_a_redirect() -> None:
    site = Site()
    async with serving(site.app) as url, fetching(is_allowed=anyone) as fetcher:
        found = await fetcher.data_url(f"{url}/to?to=/picture")
    assert read_picture(found).image.size == (20, 10)
    assert site.n_asked == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "127.1",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "0.0.0.0",
    ],
)
async def test_this_machine_is_not_asked_by_any_of_its_names(host: str) -> None:
    site = Site()
    async with serving(site.app) as url, fetching() as fetcher:
        port = url.rpartition(":")[2]
        with pytest.raises(UsageError, match=r"cannot be fetched|plain http") as refused:
            await fetcher.data_url(f"http://{host}:{port}/picture")
    assert refused.value.param == "messages"
    assert site.n_asked == 0


@pytest.mark.slow
async def test_a_public_name_of_a_private_address_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site()

    async def resolved(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        places = [("93.184.215.14", port), ("127.0.0.1", port)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]

    async with serving(site.app) as url, fetching() as fetcher:
        port = url.rpartition(":")[2]
        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolved)
        with pytest.raises(UsageError, match="cannot be fetched"):
            await fetcher.data_url(f"http://example.test:{port}/picture")
    assert site.n_asked == 0


@pytest.mark.slow
async def test_redirects_are_checked_like_first_addresses() -> None:
    site, hidden = Site(), Site()
    async with serving(site.app) as url, serving(hidden.app) as behind:
        first, second = (int(u.rpartition(":")[2]) for u in (url, behind))
        seen: list[str] = []

        def only_v4(address: Any) -> bool:
            seen.append(str(address))
            return address.version == 4 and str(address) == "127.0.0.1"

        async with fetching(is_allowed=only_v4) as fetcher:
            for target in (
                f"http://127.0.0.2:{second}/picture",
                f"http://[::1]:{second}/picture",
                "file:///etc/passwd",
                f"gopher://127.0.0.1:{second}/",
                f"http://user@127.0.0.1:{second}/picture",
            ):
                with pytest.raises(UsageError):
                    await fetcher.data_url(f"http://127.0.0.1:{first}/to?to={target}")
            with pytest.raises(UsageError, match="more than 3 times"):
                await fetcher.data_url(f"http://127.0.0.1:{first}/loop")
    assert hidden.n_asked == 0
    assert "127.0.0.2" in seen


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "ftp://example.org/a.png",
        "http://",
        "http:///a.png",
        "http://allowed.example\\@127.0.0.1/",
        "http://user:word@example.org/a.png",
        "http://example.org/\r\nx: y",
        "http://example.org/a b",
        "http://example.org/" + "a" * 5000,
        "http://\u00e9xample.org/",
        "http://example.org:99999/",
    ],
)
async def test_addresses_that_are_not_plain_are_refused(url: str) -> None:
    async with fetching(is_allowed=anyone) as fetcher:
        with pytest.raises(UsageError, match="plain http or https"):
            await fetcher.data_url(url)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("page", "no picture"),
        ("packed", "no picture"),
        ("nowhere", "cannot be fetched"),
        ("endless", f"more than the {MAX_BYTES >> 20} MB"),
    ],
)
async def test_what_is_no_picture_or_too_large_is_refused(path: str, words: str) -> None:
    async with serving(Site().app) as url, fetching(is_allowed=anyone) as fetcher:
        with pytest.raises(UsageError, match=words):
            await fetcher.data_url(f"{url}/{path}")


@pytest.mark.slow
async def test_a_host_that_does_not_answer_is_given_up() -> None:
    site = Site()
    async with serving(site.app) as url, fetching(is_allowed=anyone, timeout_s=0.05) as fetcher:
        with pytest.raises(UsageError, match="cannot be fetched"):
            await fetcher.data_url(f"{url}/slow")
        site.held.set()


def request_with(*urls: str) -> GenerationRequest:
    said = Message(role="user", text="?", images=urls)
    return GenerationRequest(request_id="r", messages=(said,))


@pytest.mark.slow
async def test_remote_pictures_of_a_request_become_data() -> None:
    site = Site()
    async with serving(site.app) as url, fetching(is_allowed=anyone) as fetcher:
        one = f"{url}/picture"
        done = await with_pictures(request_with(one, "data:image/png;base64,AA", one), fetcher)
        assert done.messages is not None
        first, kept, second = done.messages[0].images
        assert first == second and first.startswith("data:image/png;base64,iVBOR")
        assert kept == "data:image/png;base64,AA"
        assert site.n_asked == 1
        with pytest.raises(UsageError, match="no picture"):
            await with_pictures(request_with(one, f"{url}/page"), fetcher)
        with pytest.raises(UsageError, match="33 pictures"):
            await with_pictures(request_with(*[f"{url}/{i}" for i in range(33)]), fetcher)


async def test_without_the_flag_nothing_is_fetched() -> None:
    with pytest.raises(UsageError, match="--allow-image-urls") as refused:
        await with_pictures(request_with("https://example.org/a.png"), None)
    assert refused.value.param == "messages"
    plain = request_with("data:image/png;base64,AA")
    assert await with_pictures(plain, None) is plain
