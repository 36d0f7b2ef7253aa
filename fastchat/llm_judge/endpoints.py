"""Whom to ask and at what price: flags, and a file for several endpoints."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastchat.errors import DataError, UsageError
from fastchat.settings import Env, alias

OPENAI = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class UncachedEndpointSettings:
    """Where models are asked over the OpenAI API, and how patiently."""

    api_base: Annotated[
        str | None, Env("OPENAI_BASE_URL"), alias("--openai-api-base", "--judge-api-base")
    ] = None
    """Base URL of an OpenAI-compatible server, with its /v1; by default OpenAI's own."""
    api_key: Annotated[str, Env("OPENAI_API_KEY")] = field(default="EMPTY", repr=False)
    """Key of a server that wants one; better given as OPENAI_API_KEY."""
    endpoints: Path | None = None
    """JSON file of endpoints by model name, where models live on different servers."""
    parallel: Annotated[int, alias("--concurrency")] = 1
    """Requests in the air at once."""
    max_tries: int = 8
    """Tries of one request; only what may pass (429, 5xx, timeouts) is tried again."""
    retry_wait_s: float = 1.0
    """Before the second try; doubled for each further one, 30 s at most."""
    request_timeout_s: float = 300.0
    """How long one try may take."""
    price_input: float | None = None
    """Dollars for a million tokens of prompt."""
    price_output: float | None = None
    """Dollars for a million tokens of answer."""
    max_cost: float | None = None
    """Dollars this run may cost at most; what is there by then is kept."""

    def check(self) -> None:
        """Refuses numbers nothing can be done with.

        Raises:
            UsageError: a value out of range.
        """
        for name, least in (("parallel", 1), ("max_tries", 1)):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} {getattr(self, name)}: give {least} or more.")
        for name in ("retry_wait_s", "request_timeout_s", "price_input", "price_output"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} {value}: give 0 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings(UncachedEndpointSettings):
    """The same for commands that keep every reply."""

    cache: bool = True
    """Take replies that an earlier run was given for the same request."""


class Endpoint(BaseModel):
    """One place that answers for a model."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    api_base: str
    api_key: str = Field(default="EMPTY", repr=False)
    model_name: str | None = None
    """The server's own name of the model."""
    price_input: float | None = None
    price_output: float | None = None

    @property
    def chat_url(self) -> str:
        """Where chats are asked; what stands after a `?`, as Azure's api-version, stays there."""
        parts = urlsplit(self.api_base)
        return parts._replace(path=parts.path.rstrip("/") + "/chat/completions").geturl()

    @property
    def headers(self) -> dict[str, str]:
        """How the key is told: to Azure under its own name as well."""
        told = {"authorization": f"Bearer {self.api_key}"}
        host = urlsplit(self.api_base).hostname or ""
        if host.endswith((".azure.com", ".azure-api.net")):
            told["api-key"] = self.api_key
        return told

    @property
    def shown(self) -> str:
        """The address without what may be secret in it."""
        parts = urlsplit(self.api_base)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def endpoint_of(model: str, settings: UncachedEndpointSettings) -> Endpoint:
    """The endpoint that answers for `model`: the file's entry, else the flags.

    Raises:
        UsageError: no usable address, or a ceiling without prices.
        DataError: the file of endpoints cannot be used.
    """
    entries = _read(settings.endpoints) if settings.endpoints else {}
    endpoint = entries.get(model) or Endpoint(
        api_base=settings.api_base or OPENAI, api_key=settings.api_key
    )
    parts = urlsplit(endpoint.api_base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{endpoint.api_base!r} is no address like http://localhost:8000/v1.")
    prices = {
        name: getattr(endpoint, name) if getattr(endpoint, name) is not None else flag
        for name, flag in (
            ("price_input", settings.price_input),
            ("price_output", settings.price_output),
        )
    }
    if settings.max_cost is not None and None in prices.values():
        raise UsageError(f"--max-cost needs --price-input and --price-output of {model}.")
    return endpoint.model_copy(update=prices)


def _read(path: Path) -> dict[str, Endpoint]:
    try:
        value = orjson.loads(path.read_bytes())
        return {name: Endpoint.model_validate(entry) for name, entry in value.items()}
    except OSError as error:
        raise DataError(f"--endpoints {path}: cannot be read ({error.strerror}).") from None
    except (orjson.JSONDecodeError, AttributeError):
        raise DataError(
            f'--endpoints {path}: give JSON like {{"NAME": {{"api_base": "http://…/v1"}}}}.'
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"--endpoints {path}: {place}: {first['msg']}.") from None
