"""`/v1/files`: what batches read, and what they leave."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from typing import IO, TYPE_CHECKING, Any

from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from fastchat.errors import BodyTooLargeError, NotFoundError, UsageError
from fastchat.serve.asgi import json_response
from fastchat.serve.doors.body import naming
from fastchat.serve.doors.door import Door
from fastchat.serve.doors.door_stores import DoorStores
from fastchat.serve.doors.inside import key_id
from fastchat.serve.doors.pages import PAGE, page_of, read_page

if TYPE_CHECKING:
    from starlette.datastructures import UploadFile

    from fastchat.store.files import FileStore, StoredFile

PURPOSE = "batch"
FORM_FIELDS = {"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"}
UPLOAD_TIMEOUT_S = 600.0
SHORTEST_S, LONGEST_S = 3600, 2_592_000
"""What OpenAI allows for `expires_after`."""
_READ_BYTES = 1 << 20


class FilesDoors:
    """Takes, lists, gives and forgets files.

    Args:
        limit_bytes: of one file.
    """

    def __init__(self, stores: DoorStores, *, limit_bytes: int) -> None:
        self._stores = stores
        self._limit_bytes = limit_bytes

    def doors(self) -> list[Door]:
        one = "/v1/files/{file_id}"
        return [
            Door(method="POST", path="/v1/files", handler=self._upload),
            Door(method="GET", path="/v1/files", handler=self._list, query=PAGE | {"purpose"}),
            Door(method="GET", path=one, handler=self._get),
            Door(method="DELETE", path=one, handler=self._delete),
            Door(method="GET", path=f"{one}/content", handler=self._content),
        ]

    async def _upload(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data"):
            raise UsageError("A file is uploaded as multipart/form-data.", param="file")
        bounded = Request(request.scope, self._bounded(request))
        try:
            async with asyncio.timeout(UPLOAD_TIMEOUT_S):
                form = await bounded.form(max_files=1, max_fields=8)
        except TimeoutError:
            raise UsageError("The file did not arrive in time.", param="file") from None
        except (MultiPartException, KeyError, UnicodeDecodeError):
            raise UsageError("The body is no whole multipart/form-data.", param="file") from None
        except Exception as error:
            if isinstance(error, BodyTooLargeError):
                raise
            # starlette tells a broken form by its own HTTP error
            if type(error).__name__ == "HTTPException":
                raise UsageError("The body is no whole multipart/form-data.") from None
            raise
        try:
            upload = form.get("file")
            if upload is None or isinstance(upload, str):
                raise UsageError("`file` is missing: send the file as this field.", param="file")
            purpose = form.get("purpose")
            if purpose != PURPOSE:
                raise UsageError("`purpose` must be `batch`.", param="purpose")
            ignored = naming(sorted(form.keys() - FORM_FIELDS))
            lasts_s = _lasts(form.get("expires_after[anchor]"), form.get("expires_after[seconds]"))
            stored = await self._kept(upload, key_id(request.scope), lasts_s)
        finally:
            await form.close()
        return json_response(file_object(stored), headers=ignored)

    def _bounded(self, request: Request) -> Any:
        """The request's `receive`, which ends a body that grows too large."""
        limit = self._limit_bytes + (1 << 16)  # the form's own words
        announced = request.headers.get("content-length", "0")
        large = BodyTooLargeError(f"A file may have at most {self._limit_bytes} bytes.")
        if announced.isdigit() and int(announced) > limit:
            raise large
        size = 0

        async def receive() -> Message:
            nonlocal size
            message = await request.receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise large
            return message

        return receive

    async def _kept(
        self, upload: "UploadFile", owner: str | None, lasts_s: float | None
    ) -> "StoredFile":
        if not upload.size:
            raise UsageError("`file` is empty.", param="file")
        files = await asyncio.to_thread(self._stores.files)

        def write() -> "StoredFile":
            return files.write(
                _parts(upload.file),
                filename=_filename(upload.filename),
                purpose=PURPOSE,
                key_id=owner,
                lasts_s=lasts_s,
            )

        return await asyncio.to_thread(write)

    async def _list(self, request: Request) -> Response:
        page = read_page(request.query_params, most=10_000, usual=10_000)
        files = await asyncio.to_thread(self._stores.files)

        def read() -> "tuple[list[StoredFile], bool]":
            return files.page(
                key_id=key_id(request.scope),
                limit=page.limit,
                newest_first=page.order == "desc",
                after=page.after,
                purpose=request.query_params.get("purpose"),
            )

        try:
            found, has_more = await asyncio.to_thread(read)
        except KeyError:
            raise UsageError("`after` names no file.", param="after") from None
        return json_response(page_of([file_object(one) for one in found], has_more=has_more))

    async def _get(self, request: Request) -> Response:
        stored, _ = await self._found(request)
        return json_response(file_object(stored))

    async def _delete(self, request: Request) -> Response:
        stored, files = await self._found(request)
        await asyncio.to_thread(files.delete, stored.id, key_id=key_id(request.scope))
        return json_response({"id": stored.id, "object": "file", "deleted": True})

    async def _content(self, request: Request) -> Response:
        stored, files = await self._found(request)
        headers = {
            "content-length": str(stored.bytes),
            "content-disposition": f'attachment; filename="{_filename(stored.filename)}"',
            "x-content-type-options": "nosniff",
        }
        kind = "application/octet-stream"
        return StreamingResponse(file_parts(files, stored.id), headers=headers, media_type=kind)

    async def _found(self, request: Request) -> "tuple[StoredFile, FileStore]":
        wanted = request.path_params["file_id"]
        files = await asyncio.to_thread(self._stores.files)
        stored = await asyncio.to_thread(files.get, wanted, key_id=key_id(request.scope))
        if stored is None:
            raise NotFoundError(f"There is no file {wanted[:80]!r}.", param="file_id")
        return stored, files


async def file_parts(files: "FileStore", file_id: str) -> AsyncGenerator[bytes]:
    """The content of a file, part by part."""
    number = 0
    while (data := await asyncio.to_thread(files.part, file_id, number)) is not None:
        yield data
        number += 1


def file_object(stored: "StoredFile") -> dict[str, Any]:
    """A file as the API shows it."""
    return {
        "id": stored.id,
        "object": "file",
        "bytes": stored.bytes,
        "created_at": int(stored.created_at),
        "expires_at": None if stored.expires_at is None else int(stored.expires_at),
        "filename": stored.filename,
        "purpose": stored.purpose,
        "status": "processed",
        "status_details": None,
    }


def _parts(source: IO[bytes]) -> Iterator[bytes]:
    source.seek(0)
    while data := source.read(_READ_BYTES):
        yield data


def _filename(name: str | None) -> str:
    """The last step of a path, in characters that a header can hold."""
    last = re.split(r"[/\\]", name or "")[-1]
    return re.sub(r'[^\x20-\x7e]|["\\]', "_", last)[:200] or "file"


def _lasts(anchor: Any, seconds: Any) -> float | None:
    """The life of a file by its `expires_after`."""
    if anchor is None and seconds is None:
        return None
    is_count = isinstance(seconds, str) and seconds.isascii() and seconds.isdigit()
    is_count = is_count and len(seconds) <= len(str(LONGEST_S))
    if anchor != "created_at" or not is_count or not SHORTEST_S <= int(seconds) <= LONGEST_S:
        raise UsageError(
            "`expires_after` needs `anchor` to be `created_at` and `seconds` to be from "
            f"{SHORTEST_S} to {LONGEST_S}.",
            param="expires_after",
        )
    return float(seconds)
