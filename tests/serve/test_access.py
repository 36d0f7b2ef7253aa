import pytest

from fastchat.errors import AuthenticationError
from fastchat.serve.access import ApiKeys

KEYS = ApiKeys(["right", "schlüssel"])


def test_without_keys_everybody_may_ask() -> None:
    ApiKeys([]).check([])


@pytest.mark.parametrize(
    "header",
    [
        (b"authorization", b"Bearer right"),
        (b"authorization", b"bearer   right "),
        (b"x-api-key", b"right"),
        (b"api-key", b"right"),
        (b"authorization", "Bearer schlüssel".encode()),
    ],
)
def test_a_known_key_opens_however_it_is_sent(header: tuple[bytes, bytes]) -> None:
    KEYS.check([(b"host", b"x"), header])


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key", b"api-key"])
@pytest.mark.parametrize(
    "key",
    [b"", b"wrong", b"righ", b"rightt", b"Right", b"x" * 5000, b"' OR 1=1 --", b"\xff\xfe", b"*"],
)
def test_a_wrong_key_is_refused_however_it_is_sent(name: bytes, key: bytes) -> None:
    value = b"Bearer " + key if name == b"authorization" else key
    with pytest.raises(AuthenticationError) as caught:
        KEYS.check([(name, value)])
    assert caught.value.status == 401


@pytest.mark.parametrize("value", [b"right", b"Basic right", b"Bearer", b"Bearerright", b""])
def test_what_is_no_bearer_token_is_refused(value: bytes) -> None:
    with pytest.raises(AuthenticationError):
        KEYS.check([(b"authorization", value)])


def test_no_key_is_refused() -> None:
    with pytest.raises(AuthenticationError):
        KEYS.check([])


def test_one_wrong_key_beside_a_right_one_is_refused() -> None:
    both = [(b"authorization", b"Bearer right"), (b"x-api-key", b"wrong")]
    for headers in (both, both[::-1]):
        with pytest.raises(AuthenticationError):
            KEYS.check(headers)
