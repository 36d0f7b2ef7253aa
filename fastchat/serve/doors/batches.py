"""`/v1/batches`: files of requests that are answered beside everything else."""

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from fastchat.errors import NotFoundError, UsageError
from fastchat.protocol.batch_lines import ENDPOINTS, WINDOWS
from fastchat.serve.asgi import json_response, parse_json_object, read_body
from fastchat.serve.doors.batch_runner import BatchRunner
from fastchat.serve.doors.body import naming
from fastchat.serve.doors.door import Door
from fastchat.serve.doors.door_stores import DoorStores
from fastchat.serve.doors.inside import key_id
from fastchat.serve.doors.pages import PAGE, page_of, read_page

if TYPE_CHECKING:
    from fastchat.store.batches import StoredBatch

FIELDS = {"endpoint", "completion_window", "input_file_id", "metadata", "output_expires_after"}
_LIMIT_BYTES = 1 << 20
_METADATA = 16
"""Entries that a batch's metadata may have."""


class BatchesDoors:
    """Takes, lists, tells and cancels batches; the runner works through them."""

    def __init__(self, stores: DoorStores, runner: BatchRunner) -> None:
        self._stores = stores
        self._runner = runner

    def doors(self) -> list[Door]:
        one = "/v1/batches/{batch_id}"
        return [
            Door(method="POST", path="/v1/batches", handler=self._create),
            Door(method="GET", path="/v1/batches", handler=self._list, query=PAGE - {"order"}),
            Door(method="GET", path=one, handler=self._get),
            Door(method="POST", path=f"{one}/cancel", handler=self._cancel),
        ]

    async def _create(self, request: Request) -> Response:
        body = parse_json_object(await read_body(request, _LIMIT_BYTES))
        endpoint, window = body.get("endpoint"), body.get("completion_window")
        if endpoint not in ENDPOINTS:
            known = ", ".join(ENDPOINTS)
            raise UsageError(f"`endpoint` must be one of {known}.", param="endpoint")
        if not isinstance(window, str) or window not in WINDOWS:
            known = ", ".join(WINDOWS)
            raise UsageError(f"`completion_window` must be {known}.", param="completion_window")
        if body.get("output_expires_after") is not None:
            raise UsageError(
                "`output_expires_after` is not supported: output files last 30 days.",
                param="output_expires_after",
            )
        owner, file_id = key_id(request.scope), body.get("input_file_id")
        metadata = _metadata(body.get("metadata"))
        await self._need_file(file_id, owner)
        store = await asyncio.to_thread(self._stores.batches)

        def create() -> "StoredBatch":
            return store.create(
                key_id=owner,
                endpoint=str(endpoint),
                input_file_id=str(file_id),
                window=str(window),
                window_s=WINDOWS[str(window)],
                metadata=metadata,
            )

        made = await asyncio.to_thread(create)
        self._runner.start()
        return json_response(batch_object(made), headers=naming(sorted(body.keys() - FIELDS)))

    async def _need_file(self, file_id: Any, owner: str | None) -> None:
        """Raises UsageError unless the key has this file, and it was uploaded for a batch."""
        stored = None
        if isinstance(file_id, str) and len(file_id) <= 80:
            files = await asyncio.to_thread(self._stores.files)
            stored = await asyncio.to_thread(files.get, file_id, key_id=owner)
        if stored is None or stored.purpose != "batch":
            raise UsageError(
                "`input_file_id` must be the id of a file uploaded with the purpose `batch`.",
                param="input_file_id",
            )

    async def _list(self, request: Request) -> Response:
        page = read_page(request.query_params, most=100, usual=20)
        store = await asyncio.to_thread(self._stores.batches)

        def read() -> "tuple[list[StoredBatch], bool]":
            return store.page(key_id=key_id(request.scope), limit=page.limit, after=page.after)

        try:
            found, has_more = await asyncio.to_thread(read)
        except KeyError:
            raise UsageError("`after` names no batch.", param="after") from None
        return json_response(page_of([batch_object(one) for one in found], has_more=has_more))

    async def _get(self, request: Request) -> Response:
        return json_response(batch_object(await self._found(request)))

    async def _cancel(self, request: Request) -> Response:
        found = await self._found(request)
        store = await asyncio.to_thread(self._stores.batches)
        owner = key_id(request.scope)
        if not await asyncio.to_thread(store.cancel, found.id, key_id=owner):
            found = await self._found(request)
            if found.status not in ("cancelling", "cancelled"):
                raise UsageError(f"The batch is {found.status}; it can no longer be cancelled.")
        self._runner.look_again()
        return json_response(batch_object(await self._found(request)))

    async def _found(self, request: Request) -> "StoredBatch":
        wanted = request.path_params["batch_id"]
        store = await asyncio.to_thread(self._stores.batches)
        found = await asyncio.to_thread(store.get, wanted, key_id=key_id(request.scope))
        if found is None:
            raise NotFoundError(f"There is no batch {wanted[:80]!r}.", param="batch_id")
        return found


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    is_plain = isinstance(value, dict) and len(value) <= _METADATA
    if not is_plain or not all(isinstance(v, str) and len(v) <= 512 for v in value.values()):
        raise UsageError(
            f"`metadata` must be an object of at most {_METADATA} texts.", param="metadata"
        )
    return value


def batch_object(stored: "StoredBatch") -> dict[str, Any]:
    """A batch as the API shows it."""
    times = {name: None if at is None else int(at) for name, at in stored.stamps.items()}
    return {
        "id": stored.id,
        "object": "batch",
        "endpoint": stored.endpoint,
        "errors": {"object": "list", "data": stored.errors} if stored.errors else None,
        "input_file_id": stored.input_file_id,
        "completion_window": stored.window,
        "status": stored.status,
        "output_file_id": stored.output_file_id,
        "error_file_id": stored.error_file_id,
        "created_at": int(stored.created_at),
        "expires_at": int(stored.expires_at),
        **times,
        "request_counts": {
            "total": stored.total,
            "completed": stored.completed,
            "failed": stored.failed,
        },
        "metadata": stored.metadata or None,
    }
