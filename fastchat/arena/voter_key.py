"""The key under which people's addresses become names that nobody can turn back.

An address has so few forms that a plain hash of it is reversed by trying them all; with a key
kept beside the data it is not, and every run names the same person the same.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from fastchat.errors import DataError, UsageError

KEY_NAME = "voter.key"
_SHORTEST = 16


def kept_key(path: Path) -> bytes:
    """The key in the file, which is made at first, readable by its owner alone.

    Raises:
        DataError: what is there is too short for a key.
        UsageError: the file cannot be made or read.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read(path)
    except OSError as error:
        raise UsageError(
            f"the key {path} of voters' names cannot be made: {error.strerror}; name another "
            "folder, or a key file that is there."
        ) from None
    with os.fdopen(handle, "wb") as file:
        file.write(key := secrets.token_bytes(32))
    return key


def _read(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}.") from None
    if len(key) < _SHORTEST:
        raise DataError(f"the key {path} is too short; remove it or give --key-file.")
    return key


def hidden_name(key: bytes, address: str) -> str:
    """16 hexadecimal digits that name the person at `address`."""
    digest = hmac.new(key, address.encode("utf-8", "replace"), hashlib.sha256)
    return digest.hexdigest()[:16]
