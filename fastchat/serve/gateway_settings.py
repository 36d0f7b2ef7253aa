"""The flags of the gateway."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastchat.errors import UsageError
from fastchat.serve.endpoints import parse_address
from fastchat.settings import CommaList, Env, ServerSettings, alias

JsonList = Annotated[
    tuple[str, ...] | None,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar='\'["A","B"]\'',
        instance_from_str=lambda args: _json_list(args[0]),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: [json.dumps(value)],
    ),
]
"""A list of words, written as a JSON list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings(ServerSettings):
    """OpenAI-compatible API server in front of all workers."""

    controller_address: Annotated[
        str,
        alias("--controller"),
        Env("FASTCHAT_CONTROLLER_URL"),
        Env("CONTROLLER_ADDRESS"),
    ] = "http://localhost:21001"
    """Controller whose table of workers is followed."""
    endpoint: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Base URL of an OpenAI-compatible server; may be repeated. With it, no controller is
    asked."""
    register_api_endpoint_file: Annotated[Path | None, alias("--register")] = None
    """JSON file of models that others serve, by display name; keys may stand in the
    environment."""
    model_alias: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Another name of a model, as gpt-4o-mini=vicuna-tiny; may be repeated."""
    api_keys: Annotated[CommaList, Env("API_KEYS")] = ()
    """Keys that clients must send, separated by commas; better in the environment."""
    api_keys_file: Path | None = None
    """File with such keys, one in a line; empty lines and those that begin with # are left out."""
    database_url: Annotated[str | None, Env("FASTCHAT_KEYS_DATABASE_URL")] = None
    """Database with the keys of fastchat.serve.keys, which then are needed to ask, and with what
    is stored for clients: a SQLite file, or postgresql://user:password@host/name."""
    allow_credentials: bool = False
    """CORS: let browsers send credentials; needs --allowed-origins."""
    allowed_origins: JsonList = None
    """CORS: pages that may call, as a JSON list. By default those on this machine if the
    server listens on this machine only, else none."""
    allowed_methods: JsonList = ("*",)
    """CORS: methods, as a JSON list."""
    allowed_headers: JsonList = ("*",)
    """CORS: headers, as a JSON list."""
    worker_token: Annotated[str | None, Env("FASTCHAT_WORKER_TOKEN")] = None
    """Secret that is sent to the controller's workers; better in the environment."""
    worker_api_timeout: Annotated[float, Env("FASTCHAT_WORKER_API_TIMEOUT")] = 100.0
    """Seconds without a byte after which an endpoint is given up."""
    embedding_batch_size: Annotated[int | None, Env("FASTCHAT_WORKER_API_EMBEDDING_BATCH_SIZE")] = (
        None
    )
    """Texts in one call for embeddings to an endpoint; by default all of a request."""
    max_body_mb: float = 32.0
    """Largest request body, in MiB."""

    @property
    def aliases(self) -> dict[str, str]:
        """Names of models by their other names.

        Raises:
            UsageError: an entry is no pair of names, or a name would mean two models.
        """
        found: dict[str, str] = {}
        for text in self.model_alias:
            name, _, model = (word.strip() for word in text.partition("="))
            if not name or not model or name == model or not name.isprintable():
                raise UsageError(f"--model-alias {text!r}: give NAME=MODEL, two names.")
            if found.setdefault(name, model) != model:
                raise UsageError(f"--model-alias {name!r} is given to two models; name one.")
        if chained := found.keys() & found.values():
            raise UsageError(f"--model-alias: {min(chained)!r} is an alias; name a model itself.")
        return found

    def given_keys(self) -> tuple[str, ...]:
        """The keys that the operator gave, of the flag and of the file.

        Raises:
            UsageError: the file cannot be read, or holds no key.
        """
        if self.api_keys_file is None:
            return self.api_keys
        try:
            lines = self.api_keys_file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise UsageError(f"--api-keys-file {self.api_keys_file}: {why}.") from None
        keys = [key for line in lines if (key := line.strip()) and not key.startswith("#")]
        if not keys:  # an operator who names a file does not mean an open server
            raise UsageError(f"--api-keys-file {self.api_keys_file}: it holds no key.")
        return (*self.api_keys, *keys)

    def __post_init__(self) -> None:
        _ = self.aliases  # told now, if they cannot be
        for url in (self.controller_address, *self.endpoint):
            if url or not self.register_api_endpoint_file:  # empty: remote models only
                parse_address(url)
        if not self.worker_api_timeout > 0 or not self.max_body_mb > 0:
            raise UsageError("The worker timeout and the largest body must be above 0.")
        if self.embedding_batch_size is not None and self.embedding_batch_size < 1:
            raise UsageError("--embedding-batch-size must be 1 or more.")
        if self.allow_credentials and (not self.allowed_origins or "*" in self.allowed_origins):
            raise UsageError(
                "--allow-credentials needs --allowed-origins with the pages that may call by "
                "name, for example '[\"https://chat.example.org\"]'; * is not a name."
            )


def _json_list(text: str) -> tuple[str, ...]:
    with contextlib.suppress(json.JSONDecodeError):
        value = json.loads(text)
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return tuple(value)
    raise ValueError(f'{text!r} is not a JSON list of words such as ["*"]')
