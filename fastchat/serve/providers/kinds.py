"""The kinds of remote endpoints, as data in providers.toml."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

WireName = Literal["openai", "anthropic", "gemini", "cohere"]

_TABLE = Path(__file__).parent.parent / "providers.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What an `api_type` means; providers.toml describes the fields."""

    name: str
    wire: WireName = "openai"
    base_url: str = ""
    key_variable: str = ""
    key_header: str = "authorization"
    key_form: str = "Bearer {key}"
    headers: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    streams: bool = True
    drop: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    retired: str = ""


@functools.cache
def kinds() -> Mapping[str, Kind]:
    """All kinds by name."""
    table = tomllib.loads(_TABLE.read_text("utf-8"))
    return {name: _kind(name, fields) for name, fields in table.items()}


def _kind(name: str, fields: dict[str, Any]) -> Kind:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }
    return Kind(name=name, **values)
