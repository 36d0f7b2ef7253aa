"""The door of a worker that answers only who knows the worker token."""

from starlette.types import ASGIApp, Receive, Scope, Send

from fastchat.errors import AuthenticationError
from fastchat.serve.access import OPEN_PATHS, ApiKeys
from fastchat.serve.asgi import error_response


class TokenGate:
    """Passes requests on that hold the token, sent as a key is; all may ask for the health."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app = app
        self._keys = ApiKeys([token])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                self._keys.check(scope["headers"])
            except AuthenticationError:
                error = AuthenticationError(
                    "This worker wants the token of --worker-token (FASTCHAT_WORKER_TOKEN), which "
                    "its controller and API server send."
                )
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
