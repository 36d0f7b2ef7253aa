"""Pictures of a request: from an address to pixels, within bounds, or a reason why not.

Nothing is decoded before the header has said how large it is.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastchat.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGES = 32
"""Of one request."""
MAX_BYTES = 10 << 20
"""Of one encoded picture."""
MAX_PIXELS = 40_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture."""

    image: Image
    """RGB, the right way up."""
    digest: bytes
    """Of the file: the same for the same picture."""


def read_picture(url: str) -> Picture:
    """The picture in a `data:` address.

    Raises UsageError, with `messages` as its param, for everything that is none or too large.
    """
    data = _bytes(url)
    return Picture(_decoded(data), hashlib.sha256(data).digest())


def _bytes(url: str) -> bytes:
    """What a `data:` address holds."""
    head, comma, text = url.partition(",")
    if not head.startswith("data:image/") or not comma or not head.endswith(";base64"):
        raise _refused("is no address like data:image/png;base64,...")
    if len(text) > MAX_BYTES * 4 // 3 + 4:
        raise _refused(f"has more than the {MAX_BYTES >> 20} MB that a picture may have")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _refused("is not valid base64") from None


def _decoded(data: bytes) -> Image:
    """RGB pixels of an encoded picture."""
    from PIL import ImageOps, UnidentifiedImageError

    Image = _library()
    too_many = f"has more than {MAX_PIXELS // 1_000_000} million pixels"
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
        if opened.width * opened.height > MAX_PIXELS:
            raise _refused(f"is {opened.width} x {opened.height}, which {too_many}")
        if getattr(opened, "is_animated", False):
            raise _refused("is animated; send one frame")
        return ImageOps.exif_transpose(opened).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _refused(too_many) from None
    except UnidentifiedImageError:
        raise _refused(f"is none of {', '.join(FORMATS)}") from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, OverflowError):
        # Of what a decoder says nothing is shown: it may name memory or files.
        raise _refused("is damaged or not whole") from None


@functools.cache
def _library() -> Any:
    """Pillow, whose warning about size is an error: it is refused here in any case."""
    from PIL import Image

    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    return Image


def _refused(reason: str) -> UsageError:
    return UsageError(f"An `image_url` {reason}.", param="messages")
