"""OpenAI's Responses API in front of any model: made, streamed, stored, continued, cancelled."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from fastchat.errors import FastChatError, NotFoundError, UnavailableError, UsageError
from fastchat.protocol.responses_api import (
    Item,
    ResponsesRequest,
    chat_body,
    input_items,
    prompt_body,
)
from fastchat.protocol.responses_replies import LIVE, ResponseBuilder, event_bytes, failure
from fastchat.serve.asgi import EventStream, json_response, told, unless_gone
from fastchat.serve.doors.body import checked_body, with_chats
from fastchat.serve.doors.door import Door
from fastchat.serve.doors.inside import ChatReply, Inside, acting_for, key_id
from fastchat.serve.doors.pages import PAGE, page_of, read_page
from fastchat.serve.doors.telling import events_of, tell_unless_gone, tell_whole

if TYPE_CHECKING:
    from fastchat.store.responses import ResponseStore, StoredResponse

MAX_BACKGROUND = 256
LIVE_SIGN_S = 5.0
LOST_S = 60.0
"""A response in the background without a sign of life for so long has lost its maker."""


class ResponsesDoors:
    """Answers responses by the chats of the gateway, and keeps them.

    Args:
        store: opens the store; called in a thread.
    """

    def __init__(
        self,
        inside: Inside,
        store: "Callable[[], ResponseStore]",
        *,
        limit_bytes: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._inside = inside
        self._store = store
        self._limit_bytes = limit_bytes
        self._now = now
        self._making: dict[str, asyncio.Task[None]] = {}

    def doors(self) -> list[Door]:
        one = "/v1/responses/{response_id}"
        return [
            Door(method="POST", path="/v1/responses", handler=self._create),
            Door(method="POST", path="/v1/responses/input_tokens", handler=self._count),
            Door(method="GET", path=one, handler=self._get, query=frozenset({"stream"})),
            Door(method="DELETE", path=one, handler=self._delete),
            Door(method="POST", path=f"{one}/cancel", handler=self._cancel),
            Door(method="GET", path=f"{one}/input_items", handler=self._input_items, query=PAGE),
        ]

    async def stop(self) -> None:
        """Ends what is made in the background; it is told as failed."""
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel("stopping")
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- making one

    async def _create(self, request: Request) -> Response:
        body, headers = await checked_body(request, ResponsesRequest, self._limit_bytes)
        own = input_items(body)
        asked = chat_body(body, await self._history(request.scope, body) + own)
        builder = ResponseBuilder(body, now=self._now)
        if body.background:
            return await self._begin(request.scope, builder, asked, own)
        chat = await unless_gone(request, self._inside.chat(request.scope, asked))
        headers = with_chats(headers, chat.headers)
        if body.stream:
            events = self._events(request.scope, chat, builder, own)
            return EventStream(
                events, headers=headers, failure=lambda error: _last_event(builder, error)
            )
        await tell_unless_gone(request, chat, builder)
        await self._keep(request.scope, builder, own)
        return json_response(builder.response, headers=headers)

    async def _history(self, scope: Scope, body: ResponsesRequest) -> list[Item]:
        """The items of the responses that this one continues."""
        if body.previous_response_id is None:
            return []
        store = await asyncio.to_thread(self._store)
        chain = await asyncio.to_thread(
            store.chain, body.previous_response_id, key_id=key_id(scope)
        )
        if not chain:
            raise NotFoundError(
                f"There is no response {body.previous_response_id!r} to go on from; it was not "
                "stored, was deleted, or is too old.",
                param="previous_response_id",
            )
        if any(one.status in LIVE for one in chain):
            raise UsageError(
                "The response to go on from is not finished yet.", param="previous_response_id"
            )
        return [item for one in chain for item in [*one.input, *one.body["output"]]]

    async def _events(
        self, scope: Scope, chat: ChatReply, builder: ResponseBuilder, own: list[Item]
    ) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(events_of(chat, builder, event_bytes)) as events:
                async for made in events:
                    yield made
            last = b"".join(map(event_bytes, builder.end()))
            await self._keep(scope, builder, own)  # whoever reads `completed` can go on from it
            yield last
        finally:
            await chat.close()

    async def _keep(self, scope: Scope, builder: ResponseBuilder, own: list[Item]) -> None:
        if builder.response["store"]:
            store = await asyncio.to_thread(self._store)
            await asyncio.to_thread(store.put, builder.response, own, key_id=key_id(scope))

    # ---- in the background

    async def _begin(
        self, scope: Scope, builder: ResponseBuilder, asked: dict[str, Any], own: list[Item]
    ) -> Response:
        if len(self._making) >= MAX_BACKGROUND:
            raise UnavailableError("Too many responses are made in the background; try again soon.")
        builder.response["status"] = "queued"
        await self._keep(scope, builder, own)
        first = json_response(builder.response)
        response_id = builder.response["id"]
        task = asyncio.create_task(self._make(acting_for(scope), builder, asked))
        self._making[response_id] = task
        task.add_done_callback(lambda _: self._making.pop(response_id, None))
        return first

    async def _make(self, caller: Scope, builder: ResponseBuilder, asked: dict[str, Any]) -> None:
        """Makes a response nobody waits for; its end goes to the store."""
        store = await asyncio.to_thread(self._store)
        builder.response["status"] = "in_progress"
        making = asyncio.ensure_future(self._answered(caller, builder, asked))
        try:
            while not making.done():
                await asyncio.wait((making,), timeout=LIVE_SIGN_S)
                if not making.done() and not await asyncio.to_thread(
                    store.live_sign, builder.response["id"]
                ):
                    return  # cancelled at another gateway
            making.result()
        except asyncio.CancelledError:
            builder.fail(FastChatError("The server was stopped before the response was finished."))
        except Exception as error:
            builder.fail(told(error, "response failed in the background"))
        finally:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
            with contextlib.suppress(FastChatError):
                await asyncio.shield(asyncio.to_thread(store.finish, builder.response))

    async def _answered(
        self, caller: Scope, builder: ResponseBuilder, asked: dict[str, Any]
    ) -> None:
        await tell_whole(await self._inside.chat(caller, asked), builder)

    # ---- those that are stored

    async def _get(self, request: Request) -> Response:
        if request.query_params.get("stream", "false").lower() == "true":
            raise UsageError(
                "A stored response is not streamed; leave `stream` out.", param="stream"
            )
        stored = await self._stored(request)
        return json_response(self._shown(stored))

    async def _delete(self, request: Request) -> Response:
        wanted = request.path_params["response_id"]
        store = await asyncio.to_thread(self._store)
        if not await asyncio.to_thread(store.delete, wanted, key_id=key_id(request.scope)):
            raise _unknown(wanted)
        if task := self._making.get(wanted):
            task.cancel()
        return json_response({"id": wanted, "object": "response", "deleted": True})

    async def _cancel(self, request: Request) -> Response:
        stored = await self._stored(request)
        if not stored.body.get("background"):
            raise UsageError("Only a response in the background can be cancelled.")
        cancelled = stored.body | {"status": "cancelled"}
        store = await asyncio.to_thread(self._store)
        if stored.status in LIVE and await asyncio.to_thread(store.finish, cancelled):
            if task := self._making.get(stored.id):
                task.cancel()
            return json_response(cancelled)
        return json_response(self._shown(await self._stored(request)))

    async def _input_items(self, request: Request) -> Response:
        page = read_page(request.query_params, most=100, usual=20)
        items = (await self._stored(request)).input
        if page.order == "desc":
            items = items[::-1]
        if page.after is not None:
            places = [i for i, item in enumerate(items) if item["id"] == page.after]
            if not places:
                raise UsageError("`after` names no item of this response.", param="after")
            items = items[places[0] + 1 :]
        return json_response(page_of(items[: page.limit], has_more=len(items) > page.limit))

    async def _stored(self, request: Request) -> "StoredResponse":
        wanted = request.path_params["response_id"]
        store = await asyncio.to_thread(self._store)
        stored = await asyncio.to_thread(store.get, wanted, key_id=key_id(request.scope))
        if stored is None:
            raise _unknown(wanted)
        return stored

    def _shown(self, stored: "StoredResponse") -> dict[str, Any]:
        """A stored response as it is told; one that nobody makes any more has failed."""
        if stored.status in LIVE and self._now() - stored.updated_at > LOST_S:
            lost = FastChatError("The server was stopped before the response was finished.")
            return stored.body | {"status": "failed", "error": failure(lost)}
        return stored.body

    # ---- counting

    async def _count(self, request: Request) -> Response:
        body, headers = await checked_body(request, ResponsesRequest, self._limit_bytes)
        asked = prompt_body(body, await self._history(request.scope, body) + input_items(body))
        count, more = await unless_gone(request, self._inside.count(request.scope, asked))
        value = {"object": "response.input_tokens", "input_tokens": count}
        return json_response(value, headers=with_chats(headers, more))


def _unknown(response_id: str) -> NotFoundError:
    return NotFoundError(
        f"There is no response {response_id[:80]!r}; it was not stored, was deleted, or is too old."
    )


def _last_event(builder: ResponseBuilder, error: BaseException) -> bytes:
    return event_bytes(builder.fail(told(error, "stream failed")))
