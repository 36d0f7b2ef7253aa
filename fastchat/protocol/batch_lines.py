"""Lines of a batch: what is asked, what is wrong with it, and how its answer is written."""

import secrets
from dataclasses import dataclass
from typing import Any

import orjson

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
MAX_LINES = 50_000
MAX_CUSTOM_ID = 512
MAX_ERRORS = 100
WINDOWS = {"24h": 86400.0}
"""Seconds of the windows that a batch may be given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One request of a batch."""

    custom_id: str
    body: dict[str, Any]


class LineError(Exception):
    """Why a line cannot be asked."""

    def __init__(self, *, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param

    def record(self, line: int) -> dict[str, Any]:
        """The error as a batch shows it; `line` counts from 1."""
        return {"code": self.code, "message": self.message, "param": self.param, "line": line}


def read_line(data: bytes, endpoint: str) -> BatchLine:
    """One line of an input file, checked.

    Raises:
        LineError: it cannot be asked at this endpoint.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise LineError(code="invalid_json_line", message="This line is not valid JSON.") from None
    if not isinstance(value, dict):
        raise LineError(code="invalid_json_line", message="This line is no JSON object.")
    custom_id, body = value.get("custom_id"), value.get("body")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID:
        message = f"`custom_id` must be a text of 1 to {MAX_CUSTOM_ID} characters."
        raise LineError(code="missing_required_parameter", message=message, param="custom_id")
    if value.get("method") != "POST":
        raise LineError(code="invalid_method", message="`method` must be POST.", param="method")
    if value.get("url") != endpoint:
        message = f"`url` must be {endpoint}, as the batch's `endpoint` is."
        raise LineError(code="mismatched_endpoint", message=message, param="url")
    if not isinstance(body, dict):
        message = "`body` must be a JSON object."
        raise LineError(code="missing_required_parameter", message=message, param="body")
    for name in ("stream", "background"):
        if body.get(name):
            message = f"`{name}` has no place in a batch."
            raise LineError(code="invalid_request", message=message, param=f"body.{name}")
    return BatchLine(custom_id=custom_id, body=body)


def answer_line(custom_id: str, status: int, body: Any, *, ignored: str = "") -> bytes:
    """The line of an output or error file for a request that was answered.

    Args:
        ignored: the fields without meaning, as the header of the reply named them.
    """
    response = {
        "status_code": status,
        "request_id": f"req_{secrets.token_hex(12)}",
        "body": body,
        **({"ignored": ignored} if ignored else {}),
    }
    return _line(custom_id, response, None)


def unasked_line(custom_id: str, code: str, message: str) -> bytes:
    """The line of an error file for a request that was never asked."""
    return _line(custom_id, None, {"code": code, "message": message})


def _line(custom_id: str, response: Any, error: Any) -> bytes:
    return orjson.dumps(
        {
            "id": f"batch_req_{secrets.token_hex(12)}",
            "custom_id": custom_id,
            "response": response,
            "error": error,
        }
    )
