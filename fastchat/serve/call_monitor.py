"""Tells the page whether a model, or a person, has had enough calls for now.

    python3 -m fastchat.serve.call_monitor --log-dir ~/fastchat_logs --limits limits.json

The page asks it with `gradio_web_server_multi --monitor-url http://localhost:9090`. The limits are
a JSON file: {"model_hourly": {MODEL: n}, "user_daily": {MODEL: n}}.
"""

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastchat import logs
from fastchat.errors import AuthenticationError, FastChatError, NotFoundError, UsageError
from fastchat.serve.asgi import error_response, json_response, parse_json_object, read_body, serve
from fastchat.serve.call_counts import DAY_S, HOUR_S, CallCounts, Limits, LogTail, read_limits
from fastchat.settings import Env, ServerSettings, alias, run_command

log = logging.getLogger(__name__)

BODY_LIMIT = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMonitorSettings(ServerSettings):
    """Counts the calls of models in the web server's logs, and answers whether one more may be."""

    log_dir: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], alias("--log-root")] = ()
    """Folder of logs, or of folders server0, server1, ...; may be repeated."""
    limits: Path | None = None
    """JSON file of limits; without it nothing is limited until a limit is posted."""
    port: int = 9090
    """Port to listen on; 0 takes a free one."""
    admin_token: Annotated[str | None, Env("FASTCHAT_MONITOR_TOKEN")] = None
    """Secret with which limits may be changed; without one they cannot be."""


class Monitor:
    """The routes over counts and limits."""

    def __init__(
        self,
        tail: LogTail,
        limits: Limits,
        *,
        admin_token: str | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.limits = limits
        self._tail = tail
        self._counts = CallCounts()
        self._admin_token = admin_token
        self._now = now
        self._reading = asyncio.Lock()  # guards the tail and the counts

    def app(self) -> Starlette:
        """The published routes; limits change by POST alone."""
        return Starlette(
            routes=[
                Route("/is_limit_reached", self.is_limit_reached),
                Route("/get_model_call_limit/{model:path}", self.get_limit),
                Route("/update_model_call_limit", self.update_limit, methods=["POST"]),
                Route("/get_num_users_hr", self.num_users_hr),
                Route("/get_num_users_day", self.num_users_day),
                Route("/get_user_call_stats", self.user_stats),
                Route("/get_model_call_stats", self.model_stats),
                Route("/health", self.health),
            ],
            exception_handlers={FastChatError: _failed},
        )

    async def _fresh(self) -> tuple[CallCounts, float]:
        """The counts as the logs stand now."""
        async with self._reading:
            now = self._now()
            calls = await asyncio.to_thread(self._tail.new_calls, now)
            self._counts.add(calls, now)
            return self._counts, now

    async def is_limit_reached(self, request: Request) -> Response:
        model, user = (_parameter(request, name) for name in ("model", "user_id"))
        counts, now = await self._fresh()
        reason = counts.reason(self.limits, model, user, now=now)
        reply: dict[str, object] = {"is_limit_reached": bool(reason)}
        return json_response(reply | ({"reason": reason} if reason else {}))

    async def get_limit(self, request: Request) -> Response:
        model = request.path_params["model"]
        limit = self.limits.model_hourly.get(model, -1)
        return json_response({"model_call_limit": {model: limit}})

    async def update_limit(self, request: Request) -> Response:
        """Sets or removes (-1) a limit: {"model", "limit", "kind": model_hourly or user_daily}."""
        import hmac

        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        token = self._admin_token
        if token is None or not hmac.compare_digest(sent.encode(), token.encode()):
            raise AuthenticationError("Changing limits needs the monitor's --admin-token.")
        body = parse_json_object(await read_body(request, BODY_LIMIT))
        model, limit, kind = body.get("model"), body.get("limit"), body.get("kind", "model_hourly")
        if not isinstance(model, str) or not model:
            raise UsageError("model is missing: name the model to limit.", param="model")
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < -1:
            raise UsageError("limit is a number of calls; -1 removes it.", param="limit")
        if kind not in ("model_hourly", "user_daily"):
            raise UsageError("kind is model_hourly or user_daily.", param="kind")
        changed = {**getattr(self.limits, kind), model: limit}
        if limit == -1:
            del changed[model]
        self.limits = self.limits.model_copy(update={kind: changed})
        return json_response({"success": True})

    async def num_users_hr(self, request: Request) -> Response:
        return await self._num_users(HOUR_S)

    async def num_users_day(self, request: Request) -> Response:
        return await self._num_users(DAY_S)

    async def _num_users(self, seconds: float) -> Response:
        counts, now = await self._fresh()
        return json_response({"num_users": len({c.user for c in counts.since(now, seconds)})})

    async def user_stats(self, request: Request) -> Response:
        model, seconds, top = _asked(request)
        counts, now = await self._fresh()
        by_user: dict[str, Counter[str]] = {}
        for call in counts.since(now, seconds):
            if model is None or call.model == model:
                by_user.setdefault(call.user, Counter())[call.model] += 1
        busiest = sorted(by_user.items(), key=lambda item: -item[1].total())[:top]
        shown = {u: {"call_dict": dict(c), "total_calls": c.total()} for u, c in busiest}
        return json_response({"user_call_stats": shown})

    async def model_stats(self, request: Request) -> Response:
        model, seconds, top = _asked(request)
        counts, now = await self._fresh()
        calls = Counter(c.model for c in counts.since(now, seconds) if model in (None, c.model))
        return json_response({"model_call_stats": dict(calls.most_common(top))})

    async def health(self, request: Request) -> Response:
        return json_response({"status": "ok", "unread_lines": self._tail.n_unread})


def _parameter(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if value is None:
        raise UsageError(f"{name} is missing: ask with ?model=...&user_id=....", param=name)
    return value


def _asked(request: Request) -> tuple[str | None, float, int | None]:
    """Model, seconds and how many of a question for statistics."""
    query = request.query_params
    numbers: dict[str, int | None] = {}
    for name, default in (("most_recent_min", 60), ("top_k", None)):
        text = query.get(name)
        if text is not None and not (text.isascii() and text.isdigit() and int(text) > 0):
            raise UsageError(f"{name} is {text!r}; give a whole number from 1 on.", param=name)
        numbers[name] = default if text is None else int(text)
    return query.get("model"), 60.0 * (numbers["most_recent_min"] or 60), numbers["top_k"]


async def _failed(request: Request, error: Exception) -> Response:
    return error_response(error)


def run(settings: CallMonitorSettings) -> None:
    """Serves until a signal."""
    logs.setup("DEBUG" if settings.debug else "INFO")
    folders = tuple(folder.expanduser() for folder in settings.log_dir)
    if not folders:
        raise UsageError("--log-dir is missing: name the folder of the web server's logs.")
    for folder in folders:
        if not folder.is_dir():
            raise NotFoundError(f"--log-dir {folder} is no folder.")
    limits = read_limits(settings.limits) if settings.limits else Limits()
    monitor = Monitor(LogTail(folders), limits, admin_token=settings.admin_token)
    serve(monitor.app(), settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        CallMonitorSettings, run, argv, prog="python3 -m fastchat.serve.call_monitor"
    )


if __name__ == "__main__":
    sys.exit(main())
