"""The endpoint file: models that others serve, by the name they have here.

A JSON object of display name to entry, as published. Keys stand in the environment, or in the
file; they are never shown.
"""

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastchat.errors import DataError, UsageError
from fastchat.serve.endpoints import LOCAL_HOSTS, MAX_MODEL_NAME_LENGTH, parse_address
from fastchat.serve.providers.kinds import Kind, kinds

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 4 * 1024 * 1024
TIMEOUT_S = 180.0
AZURE_VERSION = "2024-10-21"

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{2,}")
_KNOWN = frozenset(
    {
        *("model_name", "api_type", "api_base", "api_key", "anony_only", "recommended_config"),
        *("text-arena", "vision-arena", "custom_system_prompt", "assistant_id", "client_name"),
        *("fixed_temperature", "folder_id", "api_version", "context_length"),
        *("timeout", "max_retries", "concurrency"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of an endpoint file."""

    name: str
    """As it is called here."""
    model: str
    """As the provider calls it."""
    kind: Kind
    base_url: str
    key: str = field(default="", repr=False)
    anony_only: bool = False
    """Shown in battles only."""
    text_arena: bool = True
    vision_arena: bool = False
    custom_system_prompt: bool = False
    """Requests without a system message get the one of the model's family."""
    recommended_config: Mapping[str, Any] = field(default_factory=dict)
    fixed_temperature: float | None = None
    client_name: str = ""
    context_length: int | None = None
    timeout_s: float = TIMEOUT_S
    max_retries: int = 1
    concurrency: int | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    """What fills the gaps of the kind's `places`."""

    def card(self) -> dict[str, Any]:
        """What pages need to know of the model, beside its name."""
        return {
            "anony_only": self.anony_only,
            "text_arena": self.text_arena,
            "vision_arena": self.vision_arena,
            "recommended_config": dict(self.recommended_config),
        }


def read_endpoint_file(path: Path, environ: Mapping[str, str] | None = None) -> list[Entry]:
    """The models of the file that can be asked; others are told in the log, with the reason.

    Args:
        environ: where keys are looked for; by default the process's, as the names of the
            variables are known from the file only.

    Raises:
        UsageError: there is no such file, or no model of it can be asked.
        DataError: it is not what it should be; the message names the entry and the field.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"The endpoint file {path.name} cannot be read: {error.strerror}."
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise DataError(f"The endpoint file {path.name} is larger than {MAX_FILE_BYTES} bytes.")
    try:
        value = json.loads(data)
    except ValueError:
        raise DataError(f"The endpoint file {path.name} is not JSON.") from None
    if not isinstance(value, dict) or not value:
        raise DataError(f"The endpoint file {path.name} must be an object of names to entries.")
    entries: list[Entry] = []
    for name, fields in value.items():
        try:
            entries.append(_entry(name, fields, os.environ if environ is None else environ))
        except UsageError as error:
            log.warning("left out of the endpoint file: %s", error.message)
    if not entries:
        raise UsageError(f"No model of the endpoint file {path.name} can be asked; see the log.")
    return entries


def _entry(name: str, fields: Any, environ: Mapping[str, str]) -> Entry:
    """
    Raises:
        UsageError: it cannot be asked here: retired, or without its key.
        DataError: a field is wrong.
    """
    if not 0 < len(name) <= MAX_MODEL_NAME_LENGTH or not name.strip() or not name.isprintable():
        raise DataError(f"Endpoint file: {name[:50]!r} is no name for a model.")
    if not isinstance(fields, dict):
        raise DataError(f"Endpoint file: {name!r} must be an object.")
    if unknown := sorted(set(fields) - _KNOWN):
        raise DataError(f"Endpoint file: {name!r} has the unknown field {unknown[0]!r}.")
    text = _Fields(name, fields)
    kind = _kind(name, text.text("api_type", required=True), text.text("model_name"))
    values = _values(name, kind, text, environ)
    base_url = text.text("api_base") or kind.base_url.format_map(values)
    if values.get("GCP_LOCATION") == "global":
        base_url = base_url.replace("global-", "")
    if not base_url:
        raise DataError(f"Endpoint file: {name!r} needs 'api_base'.")
    try:
        parse_address(base_url.rstrip("/"))
    except UsageError as error:
        raise DataError(f"Endpoint file: 'api_base' of {name!r}: {error.message}") from None
    key = _key(name, kind, text, environ)
    if key and base_url.startswith("http://") and not _is_near(base_url):
        log.warning("the key of %r travels unencrypted: use https", name)
    return Entry(
        name=name,
        model=text.text("model_name") or name,
        kind=kind,
        base_url=base_url.rstrip("/"),
        key=key,
        anony_only=text.switch("anony_only", False),
        text_arena=text.switch("text-arena", True),
        vision_arena=text.switch("vision-arena", False),
        custom_system_prompt=text.switch("custom_system_prompt", False),
        recommended_config=text.object("recommended_config"),
        fixed_temperature=text.number("fixed_temperature", 0, 10),
        client_name=text.text("client_name"),
        context_length=_whole(text.number("context_length", 1, 2**40)),
        timeout_s=text.number("timeout", 0.01, 86400) or TIMEOUT_S,
        max_retries=_whole(text.number("max_retries", 0, 10, default=1)) or 0,
        concurrency=_whole(text.number("concurrency", 1, 100_000)),
        places=values,
    )


class _Fields:
    """The fields of one entry, read with their types."""

    def __init__(self, name: str, fields: Mapping[str, Any]) -> None:
        self._name = name
        self._fields = fields

    def text(self, field: str, *, required: bool = False) -> str:
        value = self._fields.get(field)
        value = "" if value is None else value
        if not isinstance(value, str) or not value.isprintable() or (required and not value):
            raise self._wrong(field, "must be text")
        return value.strip()

    def switch(self, field: str, default: bool) -> bool:
        value = self._fields.get(field, default)
        if not isinstance(value, bool):
            raise self._wrong(field, "must be true or false")
        return value

    def number(
        self, field: str, low: float, high: float, *, default: float | None = None
    ) -> float | None:
        value = self._fields.get(field)
        if value is None:
            return default
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise self._wrong(field, f"must be a number from {low:g} to {high:g}")
        return value

    def object(self, field: str) -> dict[str, Any]:
        value = self._fields.get(field)
        value = {} if value is None else value
        if not isinstance(value, dict):
            raise self._wrong(field, "must be an object")
        return value

    def _wrong(self, field: str, rule: str) -> DataError:
        return DataError(f"Endpoint file: {field!r} of {self._name!r} {rule}.")


def _kind(name: str, api_type: str, model: str) -> Kind:
    known = kinds()
    kind = known.get(api_type)
    if kind is None:
        raise DataError(
            f"Endpoint file: {name!r} has the unknown api_type {api_type!r}; "
            f"there are {', '.join(k for k in known if not known[k].retired)}."
        )
    if kind.retired:
        raise UsageError(f"{name!r} has api_type {api_type!r}: {kind.retired}.")
    return known["azure"] if api_type == "openai" and "azure" in model else kind


def _values(name: str, kind: Kind, fields: _Fields, environ: Mapping[str, str]) -> dict[str, str]:
    """What fills the gaps of the kind's addresses."""
    values = {"api_version": fields.text("api_version") or AZURE_VERSION}
    for need in kind.needs:
        value = environ.get(need, "") if need.isupper() else fields.text(need)
        if not re.fullmatch(r"[\w.:-]+", value):
            where = "environment variable" if need.isupper() else "field"
            raise UsageError(f"{name!r} needs the {where} {need}.")
        values[need] = value
    return values


def _key(name: str, kind: Kind, fields: _Fields, environ: Mapping[str, str]) -> str:
    """The provider's key; empty where none is needed.

    `env:NAME` names a variable, and so does a value that is the name of one that is set.
    """
    given = fields.text("api_key")
    base = fields.text("api_base")
    # The variable's key belongs to the provider: it is not sent to servers of other names.
    is_official = not base or not kind.base_url or _host(base) == _host(kind.base_url)
    if given.startswith("env:"):
        variable = given.removeprefix("env:")
    elif _VARIABLE.fullmatch(given) and given in environ:
        variable = given
    else:
        variable = kind.key_variable if not given and is_official else ""
    key = environ.get(variable, "").strip() if variable else given
    if variable and not key:
        raise UsageError(f"{name!r} has no key: set the environment variable {variable}.")
    if not key.isascii() or not key.isprintable():
        raise UsageError(f"The key of {name!r} holds characters that cannot be sent.")
    return key


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].lower()


def _is_near(url: str) -> bool:
    return _host(url).rpartition(":")[0] in LOCAL_HOSTS or _host(url) in LOCAL_HOSTS


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
