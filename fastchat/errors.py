"""Every error this project raises on purpose, and the codes each one carries on the wire.

    FastChatError                     500  50001
    ├── UsageError                    400  40001   the caller's mistake
    │   ├── OutOfRangeError           400  40302
    │   ├── ContextOverflowError      400  40303
    │   ├── AuthenticationError       401  40102
    │   ├── ForbiddenError            403  40103
    │   ├── UnknownModelError         404  40301
    │   ├── NotFoundError             404  40001
    │   ├── MethodNotAllowedError     405  40001
    │   ├── BodyTooLargeError         413  40001
    │   └── UnprocessableError        422  40001
    ├── DataError                     400  40001   a file or a record
    ├── ModelError                    500  50001   loading or generating
    │   └── OutOfMemoryError          500  50002
    └── UnavailableError              503  50005   nobody can answer now
        ├── BusyError                 429  42903
        ├── RateLimitError            429  42901
        │   └── QuotaError            429  42902
        ├── ProviderError             502  50006
        ├── StoreError                503  50001
        └── UpstreamTimeoutError      504  50006

Messages name the value and the remedy. They are shown to strangers: no path of the
server, no traceback, no address of a person ever goes into one.
"""

from enum import IntEnum
from typing import ClassVar


class ErrorCode(IntEnum):
    """Numeric codes of the published protocol."""

    VALIDATION_TYPE_ERROR = 40001
    INVALID_AUTH_KEY = 40101
    INCORRECT_AUTH_KEY = 40102
    NO_PERMISSION = 40103
    INVALID_MODEL = 40301
    PARAM_OUT_OF_RANGE = 40302
    CONTEXT_OVERFLOW = 40303
    RATE_LIMIT = 42901
    QUOTA_EXCEEDED = 42902
    ENGINE_OVERLOADED = 42903
    INTERNAL_ERROR = 50001
    CUDA_OUT_OF_MEMORY = 50002
    GRADIO_REQUEST_ERROR = 50003
    GRADIO_STREAM_UNKNOWN_ERROR = 50004
    CONTROLLER_NO_WORKER = 50005
    CONTROLLER_WORKER_TIMEOUT = 50006


class FastChatError(Exception):
    """Base of all errors; the class says how it appears on the wire.

    Attributes:
        status: HTTP status.
        error_code: number of the published protocol.
        type: OpenAI's `error.type`.
        code: OpenAI's `error.code`.
        message: what went wrong and what to do, for the reader of the reply.
        param: the request field at fault, if one is.
        retry_after_s: when a retry may help, in seconds.
    """

    status: ClassVar[int] = 500
    error_code: ClassVar[ErrorCode] = ErrorCode.INTERNAL_ERROR
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = "internal_error"
    retry_after_s: int | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class UsageError(FastChatError):
    """The caller asked for something that cannot be done as asked."""

    status = 400
    error_code = ErrorCode.VALIDATION_TYPE_ERROR
    type = "invalid_request_error"
    code = "invalid_request"


class OutOfRangeError(UsageError):
    """A number lies outside its range."""

    error_code = ErrorCode.PARAM_OUT_OF_RANGE
    code = "param_out_of_range"


class ContextOverflowError(UsageError):
    """The prompt, with the answer asked for, does not fit the model's context."""

    error_code = ErrorCode.CONTEXT_OVERFLOW
    code = "context_length_exceeded"


class AuthenticationError(UsageError):
    """No key, or one that is not known."""

    status = 401
    error_code = ErrorCode.INCORRECT_AUTH_KEY
    code = "invalid_api_key"


class ForbiddenError(UsageError):
    """A known caller may not do this."""

    status = 403
    error_code = ErrorCode.NO_PERMISSION
    code = "no_permission"


class UnknownModelError(UsageError):
    """No endpoint has ever served a model of this name."""

    status = 404
    error_code = ErrorCode.INVALID_MODEL
    code = "model_not_found"


class NotFoundError(UsageError):
    """No such route or object."""

    status = 404
    code = "not_found"


class MethodNotAllowedError(UsageError):
    """The route exists, but not for this method."""

    status = 405
    code = "method_not_allowed"
    allow: str | None = None
    """The methods that the route takes."""


class BodyTooLargeError(UsageError):
    """The request body exceeds the server's limit."""

    status = 413
    code = "body_too_large"


class UnprocessableError(UsageError):
    """A registration or heart-beat lacks a field or holds an impossible value."""

    status = 422
    code = "invalid_registration"


class DataError(FastChatError):
    """A file or a record is not what it should be."""

    status = 400
    error_code = ErrorCode.VALIDATION_TYPE_ERROR
    type = "invalid_request_error"
    code = "invalid_data"


class ModelError(FastChatError):
    """A model could not be loaded, or failed while it generated."""

    code = "model_error"


class OutOfMemoryError(ModelError):
    """The device ran out of memory."""

    error_code = ErrorCode.CUDA_OUT_OF_MEMORY
    code = "out_of_memory"


class UnavailableError(FastChatError):
    """Nobody can answer now; a later try may succeed."""

    status = 503
    error_code = ErrorCode.CONTROLLER_NO_WORKER
    type = "service_unavailable"
    code = "service_unavailable"
    retry_after_s = 5


class BusyError(UnavailableError):
    """The queue is full."""

    status = 429
    error_code = ErrorCode.ENGINE_OVERLOADED
    type = "rate_limit_error"
    code = "engine_overloaded"
    retry_after_s = 1


class RateLimitError(UnavailableError):
    """The caller has used up its share for now."""

    status = 429
    error_code = ErrorCode.RATE_LIMIT
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry_after_s = 60


class QuotaError(RateLimitError):
    """The caller has used up its share of the day."""

    error_code = ErrorCode.QUOTA_EXCEEDED
    type = "insufficient_quota"
    code = "insufficient_quota"


class ProviderError(UnavailableError):
    """A remote provider refused or failed a request that was right."""

    status = 502
    error_code = ErrorCode.CONTROLLER_WORKER_TIMEOUT
    type = "upstream_error"
    code = "provider_error"


class StoreError(UnavailableError):
    """The database is locked, full or gone."""

    error_code = ErrorCode.INTERNAL_ERROR
    code = "store_unavailable"


class UpstreamTimeoutError(UnavailableError):
    """An endpoint did not answer in time."""

    status = 504
    error_code = ErrorCode.CONTROLLER_WORKER_TIMEOUT
    type = "timeout_error"
    code = "timeout"
