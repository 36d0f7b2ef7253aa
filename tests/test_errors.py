"""Errors and how they look on the wire."""

import pytest

from fastchat import errors
from fastchat.errors import ErrorCode, FastChatError, UnknownModelError
from fastchat.protocol.errors import error_body, public_error


def classes() -> list[type[FastChatError]]:
    """The errors of the tree; modules may have narrower ones of their own, for themselves."""
    found = [value for value in vars(errors).values() if isinstance(value, type)]
    return [kind for kind in found if issubclass(kind, FastChatError)]


@pytest.mark.parametrize("kind", classes())
def test_every_error_has_a_status_and_codes_that_fit(kind: type[FastChatError]) -> None:
    assert 400 <= kind.status < 600
    assert isinstance(kind.error_code, ErrorCode)
    assert (kind.status >= 500) == (int(kind.error_code) >= 50000)
    assert kind.__name__ in (errors.__doc__ or ""), "the tree at the top of errors.py"


def test_the_body_serves_new_and_old_clients() -> None:
    body = error_body(UnknownModelError("No model 'x'.", param="model"))
    assert body["error"] == {
        "message": "No model 'x'.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert (body["object"], body["message"], body["code"]) == ("error", "No model 'x'.", 40301)


def test_an_unexpected_error_tells_nothing_of_the_server() -> None:
    shown = public_error(KeyError("/secret/path"))
    assert shown.status == 500
    assert "secret" not in shown.message
