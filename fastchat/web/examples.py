"""Questions with pictures that a reader may draw: a JSON list of {dataset, question, path}."""

import hashlib
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fastchat.errors import UsageError
from fastchat.web.uploads import upload_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A question and its picture."""

    question: str
    path: Path

    def files(self) -> list[dict[str, Any]]:
        """The picture as if the reader had uploaded it: a copy of the operator's file."""
        name = hashlib.sha256(str(self.path).encode()).hexdigest()[:32]
        folder = upload_folder() / name
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / f"example{self.path.suffix.lower()}"
        shutil.copyfile(self.path, copy)
        return [
            {
                "path": str(copy),
                "url": f"gradio_api/file={copy}",
                "orig_name": copy.name,
                "meta": {"_type": "gradio.FileData"},
            }
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Questions to draw from."""

    all: tuple[Example, ...]
    rng: random.Random

    def draw(self) -> Example:
        """One of them."""
        return self.rng.choice(self.all)


def read_examples(path: Path, *, rng: random.Random) -> Examples:
    """The examples of a file; paths in it are relative to the file.

    Raises:
        UsageError: the file is no such list, or names a picture that is not there.
    """
    try:
        rows = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise UsageError(f"--random-questions {path}: cannot be read ({error}).") from None
    if not isinstance(rows, list) or not rows:
        raise UsageError(f"--random-questions {path}: holds no list of questions.")
    examples: list[Example] = []
    for number, row in enumerate(rows, 1):
        question = row.get("question") if isinstance(row, dict) else None
        picture = row.get("path") if isinstance(row, dict) else None
        if not isinstance(question, str) or not isinstance(picture, str):
            raise UsageError(f"--random-questions {path}: entry {number} lacks question or path.")
        place = (path.parent / picture).resolve()
        if not place.is_file():
            raise UsageError(f"--random-questions {path}: entry {number}: no file {picture!r}.")
        examples.append(Example(question=question, path=place))
    return Examples(all=tuple(examples), rng=rng)
