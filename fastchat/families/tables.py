"""A table of a TOML file -> a record: what a file may not say is an error naming the place."""

import dataclasses
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from fastchat.errors import DataError

R = TypeVar("R")


def record_from_table(cls: type[R], table: Mapping[str, Any], where: str, /, **given: Any) -> R:
    """The record of dataclass `cls` that `table` describes.

    where: file and table, for the messages.
    given: fields that stand elsewhere than in the table, such as its name.
    Raises DataError for a field that is unknown, missing or of the wrong type.
    """
    hints, required = _fields(cls)
    values = dict(given)
    for name, value in table.items():
        if name not in hints or name in given:
            known = ", ".join(sorted(hints.keys() - given.keys()))
            raise DataError(f"{where}: unknown field {name!r}; known fields are {known}")
        values[name] = _value(hints[name], value, f"{where}.{name}")
    if missing := sorted(required - values.keys()):
        raise DataError(f"{where}: the field {missing[0]!r} is missing")
    return cls(**values)


@cache
def _fields(cls: type) -> tuple[dict[str, Any], frozenset[str]]:
    """Types of the fields by name, and the names that have no default."""
    required = frozenset(
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    return get_type_hints(cls), required


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as a field of type `hint` holds it."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        for choice in inner:
            if choice is not type(None) and _fits(choice, value):
                return _value(choice, value, where)
        raise _wrong(hint, value, where)
    if not _fits(hint, value):
        raise _wrong(hint, value, where)
    if kind is tuple:
        item_types = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(item_types) != len(value):
            raise DataError(f"{where}: needs {len(item_types)} values, has {len(value)}")
        return tuple(
            _value(item_type, item, f"{where}[{i}]")
            for i, (item_type, item) in enumerate(zip(item_types, value, strict=True))
        )
    if kind is Mapping:
        pairs = cast(dict[str, Any], value).items()
        return {key: _value(inner[1], item, f"{where}.{key}") for key, item in pairs}
    if dataclasses.is_dataclass(kind):
        return record_from_table(cast(type[Any], kind), value, where)
    return value


def _fits(hint: Any, value: Any) -> bool:
    """Whether a TOML value has the outer shape of `hint`."""
    kind = get_origin(hint) or hint
    if kind is Literal:
        return value in get_args(hint)
    if kind is tuple:
        return isinstance(value, list)
    if kind is Mapping or dataclasses.is_dataclass(kind):
        return isinstance(value, dict)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(cast(object, value)) is kind


def _wrong(hint: Any, value: Any, where: str) -> DataError:
    if get_origin(hint) is Literal:
        return DataError(f"{where}: {value!r} is none of {', '.join(map(repr, get_args(hint)))}")
    expected = getattr(hint, "__name__", str(hint)) if not get_args(hint) else str(hint)
    return DataError(f"{where}: {value!r} is not of type {expected}")
