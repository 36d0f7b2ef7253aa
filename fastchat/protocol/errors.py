"""How an error looks on the wire: OpenAI's `error` object beside the older top-level fields."""

from typing import Any

from fastchat.errors import FastChatError

SERVER_ERROR_MSG = "**NETWORK ERROR. PLEASE TRY AGAIN IN A MOMENT.**"
"""Begins the text of a failed answer in the published stream; readers of logs look for it."""


def error_body(error: FastChatError) -> dict[str, Any]:
    """The JSON body that OpenAI clients and older FastChat clients both understand."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        },
        "object": "error",
        "message": error.message,
        "code": int(error.error_code),
    }


def public_error(error: BaseException) -> FastChatError:
    """`error` itself if it was meant to be shown, else a general one that tells nothing."""
    if isinstance(error, FastChatError):
        return error
    return FastChatError("Internal error; the server's log has the details.")
