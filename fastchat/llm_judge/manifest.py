"""What a run was made with: one line at its start, one at its end, in a file beside the results."""

import hashlib
import platform
import secrets
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastchat import __version__
from fastchat.llm_judge.lines import Appender

PACKAGES = ("aiohttp", "torch", "transformers", "numpy", "scipy")


class Manifest:
    """The record of one run. A start without an end is a run that was killed."""

    def __init__(self, path: Path, command: str, made_with: Mapping[str, Any]) -> None:
        self._path = path
        self._run = secrets.token_hex(6)
        self._write("start", {"command": command, "versions": versions(), **made_with})

    def end(self, found: Mapping[str, Any]) -> None:
        """Adds how the run went."""
        self._write("end", found)

    def _write(self, event: str, values: Mapping[str, Any]) -> None:
        with Appender(self._path) as file:
            file.write({"event": event, "run": self._run, "tstamp": time.time(), **values})


def versions() -> dict[str, str]:
    """Of this program, Python and the libraries that change results."""
    found = {"fastchat": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def file_hash(path: Path) -> str | None:
    """SHA-256 of a file's bytes; None when there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
