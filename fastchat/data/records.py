"""The training record, `id` and `conversations[from, value]`, read from JSON and JSON Lines.

Knows the shape of a record and nothing of templates or tokens. A record that is not what it
should be does not stop the reading: it arrives as a `Rejected` with the reason, so that the
reader of the file decides what too many of them means.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson

from fastchat.errors import DataError

HUMAN, GPT, SYSTEM = "human", "gpt", "system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a record."""

    speaker: str
    """The field `from`: `human` or `gpt`; other names are kept and judged by the reader."""
    text: str
    """The field `value`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One conversation."""

    id: str
    turns: tuple[Turn, ...]
    system: str | None = None
    """The record's own system message, from its field or from a first turn of that role."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are not ours; they travel unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """What stood where a record should be."""

    where: str
    """`file:line` in JSON Lines, `file[index]` in an array."""
    reason: str


def read_records(path: str | Path) -> Iterator[Record | Rejected]:
    """Every record of a file in its order, those that are not records as `Rejected`.

    A file whose first character is `[` is one JSON array; any other holds one JSON object a
    line, blank lines aside.

    Raises:
        DataError: the file is missing, or an array is not valid JSON.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from None
    if data.lstrip()[:1] == b"[":
        try:
            values = _decode(data)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path} is not valid JSON: {error.msg} at line {error.lineno}, "
                f"column {error.colno}."
            ) from None
        for i, value in enumerate(values):
            yield parse_record(value, where=f"{path.name}[{i}]")
        return
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            value = _decode(line)
        except json.JSONDecodeError:
            yield Rejected(where=where, reason="not valid JSON")
            continue
        yield parse_record(value, where=where)


def parse_record(value: object, *, where: str) -> Record | Rejected:
    """The record that a decoded JSON value stands for, or why it stands for none."""
    if not isinstance(value, dict):
        return Rejected(where=where, reason="not an object")
    fields = cast(dict[str, Any], value)
    given = fields.get("conversations")
    if not isinstance(given, list):
        return Rejected(where=where, reason="no list of conversations")
    turns: list[Turn] = []
    for turn in cast(list[Any], given):
        if not isinstance(turn, dict) or not isinstance(turn.get("from"), str):
            return Rejected(where=where, reason="message without from")
        if not isinstance(turn.get("value"), str):
            return Rejected(where=where, reason="message without text")
        turns.append(Turn(speaker=turn["from"], text=_whole_letters(turn["value"])))
    system = fields.get("system")
    if turns and turns[0].speaker == SYSTEM:
        system = turns.pop(0).text
    if system is not None and not isinstance(system, str):
        return Rejected(where=where, reason="system message is not text")
    own = ("id", "conversations", "system")
    return Record(
        id=str(fields.get("id", where)),
        turns=tuple(turns),
        system=system,
        extra={name: x for name, x in fields.items() if name not in own},
    )


def _decode(data: bytes) -> Any:
    """The value of JSON text.

    orjson refuses half a surrogate pair and bytes that are not UTF-8; Python's own decoder,
    slower, lets a file with such a letter through.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data.decode("utf-8", "replace"))


def _whole_letters(text: str) -> str:
    """The text with every half of a surrogate pair replaced, so that it can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
