"""One question to a model: over the OpenAI API with patience and a cache, or to an engine here.

A request is tried again where another try may help (429, 5xx, timeouts, lost connections), with
waits that double and are drawn at random; a 429 holds back every request to its server. What a
server refuses as a parameter it does not know is left out from then on.

The wire is aiohttp's: a request of the OpenAI SDK costs 2 ms of processor, which at 64 in the air
and replies after 200 ms is two thirds of the time there is; this one costs 0.45 ms.
"""

import asyncio
import hashlib
import random
import secrets
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson
from pydantic import BaseModel, ConfigDict

from fastchat.errors import (
    ContextOverflowError,
    ModelError,
    UnavailableError,
    UpstreamTimeoutError,
    UsageError,
)
from fastchat.llm_judge.account import Account, estimated_tokens, most_tokens, price
from fastchat.llm_judge.endpoints import Endpoint, UncachedEndpointSettings
from fastchat.llm_judge.lines import Appender, read_rows
from fastchat.llm_judge.wire import open_session
from fastchat.message import Message

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from fastchat.engine.base import Engine

LONGEST_WAIT_S = 30.0
KEPT_FOR_LATER = 512
"""Tokens of an engine's context that an early turn leaves to later ones, or half if it is short."""
OPTIONAL = {
    "response_format": "response_format",
    "seed": "seed",
    "temperature": "temperature",
    "max_tokens": "max_completion_tokens",
}
"""Parameters that some servers refuse and that can be done without, with the word in the refusal
that tells; newer models want `max_tokens` under another name."""


class RefusedError(UsageError):
    """The endpoint refuses everything we would ask it: a wrong key, an unknown model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked."""

    messages: tuple[Message, ...]
    temperature: float
    max_tokens: int
    seed: int | None = None
    schema: Mapping[str, Any] | None = None
    """JSON schema the reply should follow, where the endpoint can."""
    is_fresh: bool = field(default=False, compare=False)
    """Whether the cache is passed by."""
    n_turns_to_come: int = field(default=0, compare=False)
    """Turns of the same conversation for which an engine keeps room in its context."""

    def key(self, model: str) -> str:
        """What makes two requests the same: whom and what, not where."""
        value = {
            "model": model,
            "messages": [[m.role, m.text] for m in self.messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "schema": self.schema,
        }
        if pictures := [list(m.images) for m in self.messages if m.images]:
            value["images"] = pictures
        return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()

    @property
    def text(self) -> str:
        return "\n".join(message.text for message in self.messages)


class Reply(BaseModel):
    """What came back; also a line of the cache."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    key: str = ""
    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    """What the endpoint says answered."""
    tstamp: float = 0.0


class Model(Protocol):
    """Anything that can be asked."""

    name: str
    account: Account

    async def ask(self, request: Request) -> Reply:
        """One reply.

        Raises:
            RefusedError: every other request would be refused as well.
            CeilingError: the run may not cost more.
            FastChatError: this request failed.
        """
        ...

    async def close(self) -> None: ...


class Cache:
    """Replies by the content of their requests, in a file that only grows."""

    def __init__(self, path: Path, *, is_read: bool = True) -> None:
        held = read_rows(path, Reply, lambda reply: reply.key).rows if is_read else ()
        self._replies = {reply.key: reply for reply in held}
        self._file = Appender(path)

    def get(self, key: str) -> Reply | None:
        return self._replies.get(key)

    def put(self, reply: Reply) -> None:
        """Keeps a reply; it survives this process from here on."""
        self._replies[reply.key] = reply
        self._file.write(reply)

    def close(self) -> None:
        self._file.close()


class ApiModel:
    """A model behind an OpenAI-compatible server."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        settings: UncachedEndpointSettings,
        *,
        account: Account,
        cache: Cache | None = None,
    ) -> None:
        self.name = name
        self.account = account
        self._endpoint = endpoint
        self._url = endpoint.chat_url
        self._settings = settings
        self._cache = cache
        self._session: ClientSession | None = None
        self._left_out: set[str] = set()
        self._quiet_until = 0.0
        self._random = random.Random(0)

    async def ask(self, request: Request) -> Reply:
        key = request.key(self.name)
        if self._cache and not request.is_fresh and (known := self._cache.get(key)):
            self.account.n_from_cache += 1
            return known
        dollars = (self._endpoint.price_input, self._endpoint.price_output)
        worst = price(most_tokens(request.text), request.max_tokens, dollars) or 0.0
        async with self.account.reserve(worst):
            reply = _with_usage(await self._patiently(request), request)
            cost = price(reply.prompt_tokens, reply.completion_tokens, dollars)
            self.account.book(reply.prompt_tokens, reply.completion_tokens, cost)
        if reply.model:
            self.account.reported_models.add(reply.model)
        reply = reply.model_copy(update={"key": key, "tstamp": time.time()})
        if self._cache:
            self._cache.put(reply)
        return reply

    async def close(self) -> None:
        if self._session:
            await self._session.close()
        if self._cache:
            self._cache.close()

    async def _patiently(self, request: Request) -> Reply:
        """The reply after as many tries as the settings allow."""
        tries = self._settings.max_tries
        for i in range(tries):
            await self._wait_for_quiet()
            failure = await self._try(request)
            if isinstance(failure, Reply):
                return failure
            if i + 1 == tries:
                break
            self.account.n_retries += 1
            self.account.retried[failure.reason] += 1
            await self._wait(failure, i)
        failed = f"{failure.reason} in each of {tries} tries" if tries > 1 else failure.reason
        raise failure.kind(f"{self._endpoint.shown}: {failed}.")

    async def _wait(self, failure: "_Passing", i: int) -> None:
        most = min(LONGEST_WAIT_S, self._settings.retry_wait_s * 2**i)
        wait = most * self._random.uniform(0.5, 1.0)
        if failure.retry_after_s is not None:
            wait = max(wait, min(failure.retry_after_s, LONGEST_WAIT_S))
        if failure.reason == "HTTP 429":
            self._quiet_until = max(self._quiet_until, time.monotonic() + wait)
        await asyncio.sleep(wait)

    async def _wait_for_quiet(self) -> None:
        while (left := self._quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    async def _try(self, request: Request) -> "Reply | _Passing":
        """One try: a reply, or a failure that may pass.

        Raises RefusedError or ModelError for one that will not.
        """
        import aiohttp

        body = self._body(request)
        try:
            status, headers, content = await self._post(body)
            if status == 200:
                return _reply(content)
        except TimeoutError:
            return _Passing("timeout", kind=UpstreamTimeoutError)
        except (aiohttp.ClientError, OSError):
            return _Passing("no connection")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return _Passing("a reply that is no chat completion")
        if status in (408, 409, 429) or status >= 500:
            return _Passing(f"HTTP {status}", retry_after_s=_seconds(headers.get("retry-after")))
        error = _error(content)
        if status in (400, 422) and self._leave_out(error, body):
            return await self._try(request)
        said = str(error.get("message") or content[:300].decode("utf-8", "replace"))[:300]
        kind = RefusedError if status in (301, 302, 307, 308, 401, 403, 404) else ModelError
        raise kind(f"{self._endpoint.shown} answered {status} for {self.name}: {said}")

    async def _post(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the reply. The key goes to this address and no other."""
        session = self._open()
        data = orjson.dumps(body)
        async with session.post(self._url, data=data, allow_redirects=False) as response:
            return response.status, response.headers, await response.read()

    def _leave_out(self, error: Mapping[str, Any], sent: Mapping[str, Any]) -> bool:
        """Whether the server refused a parameter that we now do without."""
        said = f"{error.get('param')} {error.get('message')}"
        for name, sign in OPTIONAL.items():
            if sign in said and name in sent:
                self.account.left_out.add(name)
                self._left_out.add(name)
                return True
        return False

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._endpoint.model_name or self.name,
            "messages": [{"role": m.role, "content": _content(m)} for m in request.messages],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
        }
        if request.seed is not None:
            body["seed"] = request.seed
        if request.schema is not None:
            shape = {"name": "verdict", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        for name in self._left_out & body.keys():
            del body[name]
        if "max_tokens" in self._left_out:  # what newer models call it
            body["max_completion_tokens"] = request.max_tokens
        return body

    def _open(self) -> "ClientSession":
        if self._session is None:
            timeout_s = self._settings.request_timeout_s
            self._session = open_session(self._endpoint, timeout_s=timeout_s)
        return self._session


class EngineModel:
    """A model in this process; its engine computes what is asked together in one batch."""

    def __init__(self, name: str, engine: "Engine", *, account: Account) -> None:
        self.name = name
        self.account = account
        self._engine = engine

    async def ask(self, request: Request) -> Reply:
        try:
            return await self._ask(request, self._budget(request))
        except ContextOverflowError:  # then as much as there is room for
            return await self._ask(request, None)

    def _budget(self, request: Request) -> int:
        """The tokens asked for, less where turns to come would find no room."""
        if not request.n_turns_to_come:
            return request.max_tokens
        used = len(self._engine.tokenize(self._engine.render(request.messages)))
        room = self._engine.info.context_length - used
        share = room // (request.n_turns_to_come + 1)
        return max(1, min(request.max_tokens, max(share, room - KEPT_FOR_LATER)))

    async def close(self) -> None:
        await self._engine.stop()

    async def _ask(self, request: Request, max_tokens: int | None) -> Reply:
        from fastchat.engine.base import GenerationRequest, SamplingParams

        seed = request.seed if request.temperature >= 1e-4 else None
        wanted = GenerationRequest(
            request_id=secrets.token_hex(8),
            messages=request.messages,
            max_tokens=max_tokens,
            sampling=SamplingParams(temperature=request.temperature, seed=seed),
        )
        pieces: list[str] = []
        async with aclosing(self._engine.generate(wanted)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                pieces.append(chunk.text)
                if chunk.finish_reason is None:
                    continue
                if chunk.finish_reason in ("error", "abort"):
                    raise ModelError(f"{self.name}: {chunk.error or 'generation was cut off'}")
                used = chunk.usage
                n_prompt, n_new = (used.prompt_tokens, used.completion_tokens) if used else (0, 0)
                self.account.book(n_prompt, n_new, None)
                return Reply(
                    text="".join(pieces),
                    finish_reason=chunk.finish_reason,
                    prompt_tokens=n_prompt,
                    completion_tokens=n_new,
                    tstamp=time.time(),
                )
        raise ModelError(f"{self.name}: generation ended without a reason.")


@dataclass(frozen=True, slots=True)
class _Passing:
    """A failure after which another try may succeed."""

    reason: str
    retry_after_s: float | None = field(default=None, kw_only=True)
    kind: type[UnavailableError] = field(default=UnavailableError, kw_only=True)


def _content(message: Message) -> str | list[dict[str, Any]]:
    """A message's content on the wire: its text, or its pictures and then its text."""
    if not message.images:
        return message.text
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in message.images]
    return [*shown, {"type": "text", "text": message.text}]


def _reply(content: bytes) -> Reply:
    """The reply in a chat completion's bytes."""
    value = orjson.loads(content)
    choice = value["choices"][0]
    usage = value.get("usage") or {}
    return Reply(
        text=choice["message"].get("content") or "",
        finish_reason=choice.get("finish_reason") or "stop",
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        model=str(value.get("model") or ""),
    )


def _with_usage(reply: Reply, request: Request) -> Reply:
    """The reply with its tokens estimated, where the server does not count them."""
    if reply.prompt_tokens or reply.completion_tokens:
        return reply
    counted = {
        "prompt_tokens": estimated_tokens(request.text),
        "completion_tokens": estimated_tokens(reply.text),
    }
    return reply.model_copy(update=counted)


def _error(content: bytes) -> Mapping[str, Any]:
    """The error object of a reply, in OpenAI's form or bare; empty when it is neither."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(value, dict):
        return {}
    error = value.get("error", value)
    return error if isinstance(error, dict) else {"message": error}


def _seconds(header: str | None) -> float | None:
    """A Retry-After in seconds; its form as a date is passed over."""
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
