"""Pictures of a row, from a folder that holds them by their names."""

import base64
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastchat.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFolder:
    """A folder of pictures; a name with no ending is looked for with those of pictures."""

    folder: Path

    def of(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The pictures of the row as `data:` addresses.

        Raises:
            DataError: a picture that the row names is not in the folder.
        """
        return tuple(self._read(name) for name in picture_names(row))

    def _read(self, name: str) -> str:
        base = Path(name).name
        for path in (self.folder / base, *(self.folder / f"{base}.{e}" for e in ("png", "jpg"))):
            if path.is_file():
                kind = mimetypes.guess_type(path.name)[0] or "image/png"
                return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        raise DataError(f"the picture {base} is not in image_dir.")


def picture_names(row: Mapping[str, Any]) -> list[str]:
    """Names of the pictures that the person sent: contents are lists of a text and names."""
    said = row.get("conversation_a") or row.get("conversation") or []
    names: list[str] = []
    for message in said:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and len(content) > 1 and isinstance(content[1], list):
            names += [str(name) for name in content[1]]
    return names
