"""Who may ask a server: API keys, however they are sent."""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from starlette.types import Scope

from fastchat.errors import AuthenticationError

if TYPE_CHECKING:
    from fastchat.serve.limits import Caller
    from fastchat.serve.stored_keys import StoredKeys

OPEN_PATHS = frozenset({"/health"})
KEY_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key"})

KEY_ID = "fastchat.key_id"
"""Entry of a request's scope: the id of its key, by which objects of one key are kept from
others. None where the server has no keys."""
CALLER = "caller"
"""Entry of a request's scope: the `limits.Caller` that is charged; None for nobody. Work that
goes on after the request is done for the id alone, and then is a request of its own."""

HeaderList = Sequence[tuple[bytes, bytes]]


class ApiKeys:
    """The keys that open a server; without any, it is open to all.

    A key comes as `Authorization: Bearer <key>`, `x-api-key` or `api-key`. In the address it
    is not taken, because addresses end up in logs. Whoever sends several must be right in all.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode("utf-8")) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, headers: HeaderList) -> None:
        """Lets the request pass that holds these headers.

        Raises:
            AuthenticationError: no key, or one that is not known.
        """
        if self._digests and not all([self.is_known(key) for key in presented(headers)]):
            raise unknown_key()

    def is_known(self, key: bytes) -> bool:
        """Compares with every key, in a time that does not depend on the answer."""
        digest = _digest(key)
        return any([secrets.compare_digest(digest, known) for known in self._digests])


class Access:
    """The key check of a gateway: given keys, stored keys, or none.

    Args:
        keys: given by the operator; without limits, and not counted.
        stored: keys of the store, if those are on.
    """

    def __init__(self, keys: Iterable[str], stored: "StoredKeys | None" = None) -> None:
        self.given = ApiKeys(keys)
        self.stored = stored

    @property
    def is_open(self) -> bool:
        """Whether everybody may ask."""
        return not self.given and self.stored is None

    async def check(self, scope: Scope) -> "Caller | None":
        """Lets a request pass, and notes in its scope who it is.

        Raises:
            AuthenticationError: no key, or one that is not known, or several different ones.
            UnavailableError: the key is not in memory, and the store cannot be asked.
        """
        scope[KEY_ID] = scope[CALLER] = None
        if self.is_open:
            return None
        keys = presented(scope["headers"])
        if self.stored is None or (self.given and self.given.is_known(keys[0])):
            if not all([self.given.is_known(key) for key in keys]):
                raise unknown_key()
            scope[KEY_ID] = given_id(keys[0])
            return None
        caller = await self.stored.caller(keys[0])
        if caller is None or any(key != keys[0] for key in keys):
            raise unknown_key()
        scope[KEY_ID] = caller.key_id
        scope[CALLER] = caller
        return caller

    async def caller_of(self, scope: Scope) -> "Caller | None":
        """Who is charged for a request, those from inside as well.

        Raises:
            AuthenticationError: it is work for a key that ended.
        """
        caller, key_id = scope.get(CALLER), scope.get(KEY_ID)
        if caller is None and key_id is not None and self.stored and not is_given(key_id):
            return await self.stored.caller_with_id(key_id)
        return caller


def presented(headers: HeaderList) -> list[bytes]:
    """The keys that a request holds, at least one.

    Raises:
        AuthenticationError: it holds none.
    """
    sent = [_presented(name, value) for name, value in headers if name in KEY_HEADERS]
    if not sent:
        raise AuthenticationError("An API key is needed: send it as 'Authorization: Bearer <key>'.")
    return sent


def given_id(key: bytes) -> str:
    """The id of a key that the operator gave: the same after a restart, whatever the others are."""
    return "given_" + hashlib.sha256(b"fastchat key id:" + key).hexdigest()[:24]


def is_given(key_id: str) -> bool:
    """Whether the id is that of a key from --api-keys."""
    return key_id.startswith("given_")


def unknown_key() -> AuthenticationError:
    return AuthenticationError("The API key is not known here; check it for mistakes.")


def _presented(name: bytes, value: bytes) -> bytes:
    """The key in a header; nothing when it is no bearer token."""
    if name != b"authorization":
        return value.strip()
    kind, _, key = value.strip().partition(b" ")
    return key.strip() if kind.lower() == b"bearer" else b""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
