"""Who may ask a server: API keys, however they are sent."""

import hashlib
import secrets
from collections.abc import Iterable, Sequence

from fastchat.errors import AuthenticationError

OPEN_PATHS = frozenset({"/health"})
KEY_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key"})


class ApiKeys:
    """The keys that open a server; without any, it is open to all.

    A key comes as `Authorization: Bearer <key>`, `x-api-key` or `api-key`. In the address it
    is not taken, because addresses end up in logs. Whoever sends several must be right in all.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode("utf-8")) for key in keys]

    def check(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Lets the request pass that holds these headers.

        Raises:
            AuthenticationError: no key, or one that is not known.
        """
        if not self._digests:
            return
        sent = [_presented(name, value) for name, value in headers if name in KEY_HEADERS]
        if not sent:
            raise AuthenticationError(
                "An API key is needed: send it as 'Authorization: Bearer <key>'."
            )
        if not all([self._is_known(key) for key in sent]):
            raise AuthenticationError("The API key is not known here; check it for mistakes.")

    def _is_known(self, key: bytes) -> bool:
        """Compares with every key, in a time that does not depend on the answer."""
        digest = _digest(key)
        return any([secrets.compare_digest(digest, known) for known in self._digests])


def _presented(name: bytes, value: bytes) -> bytes:
    """The key in a header; nothing when it is no bearer token."""
    if name != b"authorization":
        return value.strip()
    kind, _, key = value.strip().partition(b" ")
    return key.strip() if kind.lower() == b"bearer" else b""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
