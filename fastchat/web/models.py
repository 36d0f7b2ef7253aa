"""Which models can be asked, and by which OpenAI client: the page's view of the platform.

The page is a client of one gateway. Where the gateway's address was not given and none
answers at the default one, the controller is asked for its models and for a worker's address,
since every worker speaks the same API.
"""

import asyncio
import importlib
import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastchat.errors import UnavailableError

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

DEFAULT_API_URL = "http://localhost:8000/v1"
LIST_TIMEOUT_S = 10.0
CACHE_S = 1.5
"""How long one listing serves every open page."""
KEPT_S = 60.0
"""How long the last listing serves while the server is too busy for another."""
NO_KEY = "EMPTY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """How a model should be asked in battles; None leaves the page's own value."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that can be asked."""

    name: str
    context_length: int | None = None
    """In tokens, where the server says it."""
    sees_images: bool = False
    answers_text: bool = True
    """Takes part in battles and chats without pictures."""
    only_anonymous: bool = False
    """Met in anonymous battles, and never listed."""
    advice: Advice | None = None

    def takes_part(self, *, vision: bool) -> bool:
        """Whether it is asked where pictures may come, or where only text does."""
        return self.answers_text or (vision and self.sees_images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What is there now."""

    models: tuple[Model, ...] = ()
    where: str = ""
    """The address that was asked, without credentials."""
    problem: str = ""
    """`unreachable`, `refused`, or nothing when the list was had."""

    def visible(self, *, vision: bool = False) -> "Listing":
        """Without the models that only anonymous battles know, and those of the other kind."""
        kept = [m for m in self.models if not m.only_anonymous and m.takes_part(vision=vision)]
        return replace(self, models=tuple(kept))

    def find(self, name: str | None) -> Model | None:
        """The model of that name, if it is up."""
        return next((model for model in self.models if model.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the models are asked for."""

    api_url: str | None = None
    """The gateway; None means: the default gateway if it answers, else the controller."""
    controller_url: str = ""
    """The controller; empty for none."""
    api_key: str | None = None
    timeout_s: float = 100.0
    """The longest silence in an answer."""
    keeps_first_list: bool = False
    """Ask no more once there was a model."""


class ModelDirectory:
    """The live list of models, and a client for each."""

    def __init__(self, source: Source, *, now: Callable[[], float]) -> None:
        self.source = source
        self._now = now
        self._clients: dict[tuple[str, str | None], AsyncOpenAI] = {}
        self._http: httpx2.AsyncClient | None = None
        self._listing = Listing()
        self._listed_at = float("-inf")
        self._told_at = float("-inf")
        """When a server last told its models."""
        self._asks_controller = False
        self._is_late = False
        """The last listing did not come in time."""
        self._asking = asyncio.Lock()  # one listing at a time, however many pages want it

    async def listing(self) -> Listing:
        """The models that are up, at most `CACHE_S` old. Never raises: see `problem`."""
        async with self._asking:
            kept = self.source.keeps_first_list and self._listing.models
            if not kept and self._now() - self._listed_at >= CACHE_S:
                self._listing = await self._ask()
                self._listed_at = self._now()
                if not self._is_late:
                    self._told_at = self._listed_at
            return self._listing

    async def client_for(self, model: str) -> "AsyncOpenAI":
        """A client of a server that has `model`.

        Raises:
            UnavailableError: the controller knows no worker for it.
        """
        if self.source.api_url is None:
            await self.listing()  # finds out who answers now
        if not self._asks_controller:
            return self._client(self._gateway_url, self.source.api_key)
        answer = await self._post_to_controller("/get_worker_address", {"model": model})
        address = answer.get("address") if isinstance(answer, dict) else None
        if not address:
            raise UnavailableError(f"No worker serves {model!r} now.")
        return self._client(address.rstrip("/") + "/v1", None)

    async def warm_up(self) -> None:
        """Loads the client's code, 3 s at first, before somebody waits for an answer."""
        await asyncio.to_thread(importlib.import_module, "openai.resources.chat.completions")
        await self.listing()

    def advice(self, model: str) -> Advice | None:
        """How `model` should be asked in battles, where the operator says so."""
        found = self._listing.find(model)
        return None if found is None else found.advice

    async def close(self) -> None:
        """Closes every connection."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None
            self._clients.clear()

    @property
    def _gateway_url(self) -> str:
        return self.source.api_url or DEFAULT_API_URL

    async def _ask(self) -> Listing:
        """One listing from the gateway, or from the controller in its place."""
        self._is_late = False
        listing = await self._ask_gateway()
        is_away = listing.problem == "unreachable"
        self._asks_controller = self._has_other_source and is_away
        return await self._ask_controller() if self._asks_controller else listing

    async def _ask_gateway(self) -> Listing:
        import openai

        where = public_address(self._gateway_url)
        client = self._client(self._gateway_url, self.source.api_key)
        try:
            page = await client.models.list(timeout=LIST_TIMEOUT_S)
            models = [_model(entry.id, entry.model_extra or {}) for entry in page.data]
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            return Listing(where=where, problem="refused")
        except openai.APITimeoutError:
            return self._late(where)
        except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            # The last three: something else than an OpenAI server listens there.
            log.debug("no list of models where=%s reason=%s", where, error)
            return Listing(where=where, problem="unreachable")
        return Listing(models=_sorted(models), where=where)

    def _late(self, where: str) -> Listing:
        """What to go by where no list came in time and nobody else is asked: the last one, for a
        while."""
        self._is_late = True
        is_fresh = self._now() - self._told_at < KEPT_S
        if self._listing.models and is_fresh and not self._has_other_source:
            return self._listing
        return Listing(where=where, problem="unreachable")

    @property
    def _has_other_source(self) -> bool:
        """Whether the controller is asked where no gateway answers."""
        return self.source.api_url is None and bool(self.source.controller_url)

    async def _ask_controller(self) -> Listing:
        where = public_address(self.source.controller_url)
        try:
            answer = await self._post_to_controller("/list_models", {})
        except UnavailableError:
            return Listing(where=where, problem="unreachable")
        names = answer.get("models", []) if isinstance(answer, dict) else []
        seeing = await self._seeing()
        models = [Model(name=str(n), sees_images=str(n) in seeing) for n in names]
        return Listing(models=_sorted(models), where=where)

    async def _seeing(self) -> set[str]:
        """The controller's models that see pictures."""
        try:
            answer = await self._post_to_controller("/list_multimodal_models", {})
        except UnavailableError:
            return set()
        return set(map(str, answer.get("models", []))) if isinstance(answer, dict) else set()

    async def _post_to_controller(self, path: str, body: dict[str, str]) -> Any:
        """The controller's answer to `body`.

        Raises:
            UnavailableError: it does not answer, or not in JSON.
        """
        import httpx2

        url = self.source.controller_url.rstrip("/") + path
        try:
            reply = await self._pool().post(url, json=body, timeout=LIST_TIMEOUT_S)
            reply.raise_for_status()
            return reply.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise UnavailableError("The controller does not answer.") from error

    def _client(self, base_url: str, api_key: str | None) -> "AsyncOpenAI":
        from openai import AsyncOpenAI

        key = base_url, api_key
        if key not in self._clients:
            self._clients[key] = AsyncOpenAI(
                base_url=base_url,
                api_key=api_key or NO_KEY,
                max_retries=0,
                http_client=self._pool(),
            )
        return self._clients[key]

    def _pool(self) -> "httpx2.AsyncClient":
        """The one pool of connections. Proxies of the environment are for distant hosts only."""
        import httpx2

        if self._http is None:
            addresses = [self._gateway_url, self.source.controller_url]
            self._http = httpx2.AsyncClient(
                timeout=httpx2.Timeout(self.source.timeout_s, connect=LIST_TIMEOUT_S),
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100),
                trust_env=not all(is_near(address) for address in addresses if address),
                follow_redirects=False,
            )
        return self._http


def is_near(url: str) -> bool:
    """Whether `url` names this machine or its own network, where no proxy belongs."""
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal"))


def public_address(url: str) -> str:
    """`url` as it may be shown: no credentials, no path."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname or url


def _sorted(models: list[Model]) -> tuple[Model, ...]:
    return tuple(sorted(models, key=lambda model: model.name.casefold()))


def _model(name: str, entry: dict[str, Any]) -> Model:
    """A model as a list of models describes it; our gateway adds what an endpoint file says."""
    card = entry.get("fastchat")
    if not isinstance(card, dict):
        length, seeing = _context_length(entry), _sees_images(entry)
        return Model(name=name, context_length=length, sees_images=seeing)
    return Model(
        name=name,
        context_length=_context_length(entry),
        sees_images=_sees_images(entry) or card.get("vision_arena") is True,
        answers_text=card.get("text_arena") is not False,
        only_anonymous=card.get("anony_only") is True,
        advice=advice_from(card.get("recommended_config")),
    )


def advice_from(config: Any) -> Advice | None:
    """The `recommended_config` of an endpoint file; None where it says nothing we can use."""
    if not isinstance(config, dict):
        return None

    def number(name: str) -> float | None:
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            return None
        return value

    limit = number("max_new_tokens")
    advice = Advice(
        temperature=number("temperature"),
        top_p=number("top_p"),
        max_tokens=int(limit) if limit else None,
    )
    return None if advice == Advice() else advice


def _sees_images(entry: dict[str, Any]) -> bool:
    """Whether a model sees pictures, as our gateway and other servers say it in their lists."""
    architecture = entry.get("architecture")
    inner = architecture if isinstance(architecture, dict) else {}
    words = [entry.get("multimodal") is True and "image"]
    for table, key in (
        (entry, "input_modalities"),
        (inner, "input_modalities"),
        (entry, "abilities"),
        (entry, "capabilities"),
    ):
        value = table.get(key)
        words += list(value) if isinstance(value, list | dict) else []
    return bool({"image", "vision"} & {word for word in words if isinstance(word, str)})


def _context_length(entry: dict[str, Any]) -> int | None:
    """The context of a model as our gateway, vLLM and others name it in their lists."""
    for key in ("context_length", "max_model_len", "context_window"):
        value = entry.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return None
