"""Pictures that a browser has uploaded through the page's library."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastchat.errors import DataError
from fastchat.web.images import Picture, take_upload

MOST = 4
"""Pictures that are opened for one message; only the first is used."""


def upload_folder() -> Path:
    """Where the library puts what browsers upload."""
    from gradio.utils import get_upload_folder

    return Path(get_upload_folder())


async def taken_uploads(files: Sequence[Any]) -> tuple[tuple[Picture, ...], str]:
    """The uploaded pictures, and why there are none if one cannot be used.

    Args:
        files: as the browser describes them, which need not be true.
    """
    paths = [
        file["path"]
        for file in files[:MOST]
        if isinstance(file, dict) and isinstance(file.get("path"), str)
    ]
    folder = upload_folder()
    try:
        return tuple([await asyncio.to_thread(take_upload, p, folder) for p in paths]), ""
    except DataError as error:
        return (), error.message
