from pathlib import Path

import pytest

from fastchat.errors import AuthenticationError, UsageError
from fastchat.serve.access import ApiKeys
from fastchat.serve.openai_api_server import Gateway, GatewaySettings

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


def test_keys_of_a_file_open_beside_those_of_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# of the data team\n  first \n\nsecond\r\n", "utf-8")
    settings = GatewaySettings(endpoint=("http://a:1",), api_keys=("k",), api_keys_file=path)
    given = Gateway(settings).access.given
    assert [given.is_known(key) for key in (b"k", b"first", b"second")] == [True] * 3
    assert not any(given.is_known(key) for key in (b"", b"# of the data team", b" first "))


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b"\xff\xfe", "no text"), (b"# none\n", "no key")]
)
def test_a_file_without_keys_is_no_open_server(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        Gateway(GatewaySettings(endpoint=("http://a:1",), api_keys_file=path))
