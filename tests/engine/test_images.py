"""What is a picture and what is not, before any model sees it."""

import base64
import io
import struct
import zlib
from typing import Any

import pytest

from fastchat.engine import images
from fastchat.engine.images import read_picture
from fastchat.errors import UsageError
from tests.engine.seeing_models import data_url, picture


def url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header says what it likes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def animated() -> bytes:
    out = io.BytesIO()
    frames = [picture(8, 8, i) for i in range(3)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def whole() -> bytes:
    out = io.BytesIO()
    picture(64, 64, 1).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("data:image/png;base64," + "!" * 40, "not valid base64"),
        ("data:image/png,abc", "is no address like"),
        ("data:text/html;base64,AAAA", "is no address like"),
        ("/etc/passwd", "is no address like"),
        ("file:///etc/passwd", "is no address like"),
        ("data:image/png;base64,", "is none of"),
        (url(b"<svg onload=alert(1)>", "svg+xml"), "is none of"),
        (url(b"GIF89a" + b"\0" * 10), "is damaged|is none of"),
        (url(whole()[:300]), "damaged or not whole"),
        (url(png_of(60_000, 60_000)), "more than 40 million pixels"),
        (url(png_of(20_000, 20_000)), "more than 40 million pixels"),
        (url(png_of(9_000, 9_000)), "more than 40 million pixels"),
        (url(png_of(6_000, 6_000)), "damaged or not whole"),
        (url(png_of(100, 100, zlib.compress(b"\0" * 10_000_000))), ""),
        (url(animated(), "gif"), "animated"),
        ("data:image/png;base64," + "A" * (15 << 20), "more than the 10 MB"),
    ],
)
def test_what_is_no_picture_or_too_large_is_refused_with_its_reason(
    address: str, words: str
) -> None:
    if not words:  # more data than the header has room for: what is too much is not read
        assert read_picture(address).image.size == (100, 100)
        return
    with pytest.raises(UsageError, match=words) as refused:
        read_picture(address)
    assert refused.value.param == "messages"
    assert "0x" not in refused.value.message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_pictures_of_the_usual_formats_are_read(kind: str) -> None:
    read = read_picture(data_url(picture(20, 10, 1), kind))
    assert (read.image.size, read.image.mode) == ((20, 10), "RGB")


def test_equal_files_have_equal_digests() -> None:
    one, two = (data_url(picture(20, 10, seed)) for seed in (1, 2))
    assert read_picture(one).digest == read_picture(one).digest != read_picture(two).digest


def test_a_photograph_is_turned_upright() -> None:
    from PIL import Image

    image = Image.new("RGB", (20, 10))
    turned = Image.Exif()
    turned[0x0112] = 6
    assert read_picture(data_url(image, "JPEG", exif=turned)).image.size == (10, 20)


def test_a_failing_decoder_shows_nothing_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("cannot read /srv/secret at 0x7f3a")

    monkeypatch.setattr(images, "_library", lambda: Image)
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UsageError) as refused:
        read_picture(url(whole()))
    assert "secret" not in refused.value.message
