"""Environments of clients whose libraries do not go with ours, each from its own pins.

`python tests/client_venvs.py` makes those that are missing; a test that finds none makes it.
"""

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

CLIENTS = Path(__file__).resolve().parent / "clients"
INSTALL_LIMIT_S = 900
_failed: dict[Path, Exception] = {}
"""What could not be made is not tried again by the next test."""


def client_program(client: str, program: str = "python") -> Path:
    """A program of a client's environment; skips the test where that cannot be made."""
    folder = CLIENTS / client
    try:
        if folder in _failed:
            raise _failed[folder]
        return made(folder) / "bin" / program
    except (subprocess.SubprocessError, OSError) as error:
        _failed[folder] = error
        pytest.skip(f"{client} cannot be installed here: {type(error).__name__}")


def made(folder: Path) -> Path:
    """The environment in `folder`, of exactly its requirements. Others that want it wait.

    Raises:
        subprocess.SubprocessError: it could not be made; what was half made is not used.
    """
    with open(folder / "requirements.txt", "rb") as pins:
        fcntl.flock(pins, fcntl.LOCK_EX)  # until the file is closed
        return _made(folder, hashlib.sha256(pins.read() + sys.version.encode()).hexdigest())


def _made(folder: Path, digest: str) -> Path:
    place, stamp = folder / ".venv", folder / ".venv" / "requirements.sha256"
    if stamp.is_file() and stamp.read_text() == digest:
        return place
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(place)],
        [
            *[str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"],
            *["-r", str(folder / "requirements.txt")],
        ],
    ):
        subprocess.run(command, check=True, timeout=INSTALL_LIMIT_S, capture_output=True, text=True)
    stamp.write_text(digest)
    return place


def main() -> int:
    """Makes every environment; says on standard error which could not be made."""
    failed = 0
    for pins in sorted(CLIENTS.glob("*/requirements.txt")):
        try:
            made(pins.parent)
        except (subprocess.SubprocessError, OSError) as error:
            reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
            print(f"{pins.parent.name} cannot be installed: {reason}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
