"""Pictures that readers send: checked, made small, kept under their hash.

What a browser uploads is decoded once, within limits, and written anew as PNG or JPEG, so that
nothing but pixels goes on to a model or to the disk.
"""

import asyncio
import base64
import hashlib
import io
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastchat.errors import DataError, UnavailableError
from fastchat.store.arena_records import StoredImage

if TYPE_CHECKING:
    import httpx2
    from PIL.Image import Image as PILImage

UPLOAD_BYTES = 15 * 1024 * 1024
"""Published limit of one picture."""
MAX_PIXELS = 40_000_000
LONGEST_SIDE = 1024
SENT_BYTES = 5 * 1024 * 1024 // 3 * 2
"""Published: 5/1.5 MB, so that its base64 form stays below 5 MB."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
JPEG_QUALITIES = (90, 75, 50)
STORAGE_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as it is sent to models."""

    data: bytes
    media_type: str
    width: int
    height: int

    @property
    def hash(self) -> str:
        """Of the bytes; the picture's name everywhere."""
        return hashlib.sha256(self.data).hexdigest()[:32]

    @property
    def data_url(self) -> str:
        """The picture as an address that holds it."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"

    @property
    def suffix(self) -> str:
        """Of its file."""
        return ".png" if self.media_type == "image/png" else ".jpg"


def read_picture(data: bytes) -> Picture:
    """The first frame of a picture, at most 1024 pixels long, as PNG or, where that is too large,
    JPEG.

    Raises:
        DataError: no picture of a known format, or one too large to be opened.
    """
    from PIL import Image, UnidentifiedImageError

    if len(data) > UPLOAD_BYTES:
        raise DataError(f"The picture has more than {UPLOAD_BYTES // 2**20} MB.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise DataError(f"The picture has more than {MAX_PIXELS // 10**6} megapixels.")
                opened.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
                image = opened.convert("RGBA")
    except UnidentifiedImageError:
        raise DataError("This is no PNG, JPEG, WebP, GIF or BMP picture.") from None
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        raise DataError("The picture is damaged or too large.") from error
    except Image.DecompressionBombWarning:
        raise DataError(f"The picture has more than {MAX_PIXELS // 10**6} megapixels.") from None
    return _encoded(image)


def _encoded(image: "PILImage") -> Picture:
    from PIL import Image

    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    media_type = "image/png"
    if buffer.tell() > SENT_BYTES:
        media_type = "image/jpeg"
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A"))
        for quality in JPEG_QUALITIES:
            buffer = io.BytesIO()
            flat.save(buffer, "JPEG", quality=quality)
            if buffer.tell() <= SENT_BYTES:
                break
    return Picture(
        data=buffer.getvalue(), media_type=media_type, width=image.width, height=image.height
    )


def take_upload(path: str, folder: Path) -> Picture:
    """The picture in a file that a browser has uploaded. The file stays for others: two readers
    who send the same picture have one.

    Args:
        path: as the browser names it, which need not be true.
        folder: where uploads lie; nothing outside of it is read.

    Raises:
        DataError: it is not there, or no picture.
    """
    try:
        place = Path(path).resolve(strict=True)
        if not (place.is_relative_to(folder.resolve()) and place.is_file()):
            raise OSError
        with place.open("rb") as file:
            data = file.read(UPLOAD_BYTES + 1)
    except (OSError, ValueError):
        raise DataError("The picture is not there any more; choose it again.") from None
    return read_picture(data)


class PictureFolder:
    """Keeps pictures under their hashes, in a folder and, where asked, on a storage server."""

    def __init__(self, folder: Path | None, *, storage_url: str = "", token: str = "") -> None:
        """
        Args:
            folder: None keeps none on this machine.
            storage_url: pictures are PUT to `<storage_url>/<hash>.png`, as Google Cloud Storage
                takes them at https://storage.googleapis.com/BUCKET.
            token: sent along as a bearer token.
        """
        self.folder = folder
        self.storage_url = storage_url.rstrip("/")
        self.token = token
        self._http: httpx2.AsyncClient | None = None

    async def keep(self, picture: Picture, *, at: float) -> StoredImage:
        """Has the picture kept when it returns, and gives its record.

        Raises:
            UnavailableError: the folder or the storage does not take it.
        """
        name = picture.hash + picture.suffix
        if self.folder is not None:
            await asyncio.to_thread(self._write, self.folder / name, picture.data)
        if self.storage_url:
            await self._upload(name, picture)
        return StoredImage(
            hash=picture.hash,
            media_type=picture.media_type,
            width=picture.width,
            height=picture.height,
            size_bytes=len(picture.data),
            seen_at=at,
        )

    async def close(self) -> None:
        """Closes its connections."""
        if self._http is not None:
            await self._http.aclose()

    def _write(self, path: Path, data: bytes) -> None:
        try:
            if path.exists():
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError as error:
            raise UnavailableError("The picture could not be kept; send it without.") from error

    async def _upload(self, name: str, picture: Picture) -> None:
        import httpx2

        if self._http is None:
            self._http = httpx2.AsyncClient(timeout=STORAGE_TIMEOUT_S)
        headers = {"content-type": picture.media_type}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        try:
            reply = await self._http.put(
                f"{self.storage_url}/{name}", content=picture.data, headers=headers
            )
            reply.raise_for_status()
        except httpx2.HTTPError as error:
            raise UnavailableError("The picture could not be kept; send it without.") from error
