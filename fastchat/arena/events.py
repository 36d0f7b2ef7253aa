"""The published log: one JSON object a line, in a file a day, of what people did.

An `Event` is a chat, a vote or a flag, and knows its row in the log; reading and appending lines
is here, what a vote is worth is in `battles`. A line that cannot be read is handed on as `Unread`
with the reason, so that whoever reads can count it: nothing is skipped in silence.
"""

import datetime
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import orjson

from fastchat.errors import DataError, UsageError

EventKind = Literal[
    "chat",
    "error",
    "upvote",
    "downvote",
    "flag",
    "leftvote",
    "rightvote",
    "tievote",
    "bothbad_vote",
    "share",
]
VOTES = ("leftvote", "rightvote", "tievote", "bothbad_vote")
SIDE_KINDS = ("chat", "error", "upvote", "downvote", "flag")
"""Of one conversation; an `error` is a chat whose answer failed."""
PAIR_KINDS = (*VOTES, "share")
"""Of two."""
KINDS = (*SIDE_KINDS, *PAIR_KINDS)

UnreadReason = Literal["torn_line", "not_json", "not_utf8", "unknown_type", "bad_row"]

LAST_S = 253_402_300_800.0
"""Where times end that dates can tell: the year 10000."""
LOG_SUFFIX = "-conv.json"
_LOG_NAME = re.compile(r"\d{4}-\d{2}-\d{2}" + re.escape(LOG_SUFFIX))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedState:
    """One side's conversation as it stood at the event."""

    conv_id: str
    model_name: str | None
    messages: tuple[tuple[str, Any], ...]
    """Role and content; the content is text, None while an answer is awaited, or, with images,
    a list of the text and the images' names."""
    offset: int = 0
    """Messages before this one are examples of the template, not the person's."""
    roles: tuple[str, ...] = ("user", "assistant")
    template_name: str = ""
    system_message: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the row, kept as they are."""

    def to_row(self) -> dict[str, Any]:
        """The published `state` object."""
        return {
            "template_name": self.template_name,
            "system_message": self.system_message,
            "roles": list(self.roles),
            "messages": [list(message) for message in self.messages],
            "offset": self.offset,
            "conv_id": self.conv_id,
            "model_name": self.model_name,
            **self.extra,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the log."""

    type: EventKind
    tstamp: float
    """Seconds since the epoch, UTC."""
    models: tuple[str | None, ...]
    """The names that were on the page: one, or two for a vote on a pair; "" while hidden."""
    states: tuple[LoggedState, ...]
    """One side, or two for a vote on a pair."""
    ip: str = ""
    gen_params: Mapping[str, Any] | None = None
    start: float | None = None
    """When the answer was asked for; chats only."""
    finish: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the row, kept as they are."""

    @property
    def is_of_judge(self) -> bool:
        """Whether a judge voted, which the published log never says."""
        return self.extra.get("origin", "human") != "human"

    def to_row(self) -> dict[str, Any]:
        """The published row: `models` and `states` for a vote on a pair, else `model`, `state`."""
        row: dict[str, Any] = {"tstamp": self.tstamp, "type": self.type}
        if self.type in PAIR_KINDS:
            row |= {"models": list(self.models), "states": [s.to_row() for s in self.states]}
        else:
            row |= {"model": self.models[0]}
            if self.type in ("chat", "error"):
                row |= {"gen_params": self.gen_params, "start": self.start, "finish": self.finish}
            row |= {"state": self.states[0].to_row()}
        return row | {"ip": self.ip, **self.extra}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A line that is no event, and why."""

    reason: UnreadReason
    path: str
    line: int
    """Counted from 1."""


def event_from_row(row: Any) -> Event:
    """The event of a published row; fields that are not known are kept in `extra`.

    Raises:
        DataError: a field is missing or not what it should be; the message names it.
    """
    if not isinstance(row, dict):
        raise DataError("a line of the log is no JSON object.")
    rest = dict(row)
    kind = rest.pop("type", None)
    if kind not in KINDS:
        raise DataError(f"type {kind!r} is not known; it is one of {', '.join(KINDS)}.")
    names, states = _sides(rest, pair=kind in PAIR_KINDS)
    return Event(
        type=cast(EventKind, kind),
        tstamp=_moment(rest.pop("tstamp", None)),
        models=names,
        states=tuple(_state(s) for s in states),
        ip=_text(rest.pop("ip", ""), "ip"),
        gen_params=rest.pop("gen_params", None),
        start=_optional_number(rest.pop("start", None), "start"),
        finish=_optional_number(rest.pop("finish", None), "finish"),
        extra=rest,
    )


def _sides(rest: dict[str, Any], *, pair: bool) -> tuple[tuple[str | None, ...], list[Any]]:
    """The names shown and the states, taken out of the row."""
    if pair:
        names, states = rest.pop("models", None), rest.pop("states", None)
    else:
        names, states = [rest.pop("model", None)], [rest.pop("state", None)]
    n = 2 if pair else 1
    if not isinstance(names, list) or not isinstance(states, list):
        raise DataError("models or states are no lists.")
    if len(names) != n or len(states) != n:
        raise DataError(f"{len(names)} models and {len(states)} states, where {n} belong.")
    return tuple(None if name is None else _text(name, "model") for name in names), states


def _state(row: Any) -> LoggedState:
    if not isinstance(row, dict):
        raise DataError("state is no JSON object.")
    rest = dict(row)
    messages = rest.pop("messages", None)
    offset = rest.pop("offset", 0)
    name = rest.pop("model_name", None)
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise DataError("messages is no list of pairs of a role and a content.")
    if not isinstance(offset, int):
        raise DataError(f"offset {offset!r} is no whole number.")
    return LoggedState(
        conv_id=_text(rest.pop("conv_id", None), "conv_id"),
        model_name=None if name is None else _text(name, "model_name"),
        messages=tuple((m[0], m[1]) for m in messages),
        offset=offset,
        roles=tuple(map(str, rest.pop("roles", None) or ("user", "assistant"))),
        template_name=str(rest.pop("template_name", None) or ""),
        system_message=str(rest.pop("system_message", None) or ""),
        extra=rest,
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 2 and isinstance(value[0], str)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name} is {value!r}, which is no text.")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{name} is {value!r}, which is no number.")
    return float(value)


def _moment(value: Any) -> float:
    """Seconds since the epoch; those of milliseconds are in a year that no date has."""
    if not 0 <= (moment := _number(value, "tstamp")) < LAST_S:
        raise DataError(f"tstamp is {value!r}, which is no time in seconds.")
    return moment


def _optional_number(value: Any, name: str) -> float | None:
    return None if value is None else _number(value, name)


def log_name(tstamp: float) -> str:
    """The name of the file that holds the day of `tstamp` (UTC)."""
    day = datetime.datetime.fromtimestamp(tstamp, datetime.UTC).date()
    return f"{day.isoformat()}{LOG_SUFFIX}"


def append(folder: Path, event: Event) -> Path:
    """Adds the event's line to its day's file, which is made where missing; gives the file.

    The line is one write to a file opened for appending, so that several processes may write
    and a kill leaves at most the last line torn; a torn last line is closed first, so that it
    costs no other. Raises OSError when the line could not be written whole.
    """
    path = folder / log_name(event.tstamp)
    line = orjson.dumps(event.to_row()) + b"\n"
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            line = b"\n" + line
        if (written := os.write(handle, line)) != len(line):
            raise OSError(f"{written} of {len(line)} bytes of an event were written")
    finally:
        os.close(handle)
    return path


def log_files(root: Path, *, newest: int | None = None) -> list[Path]:
    """The daily logs in `root` and in its folders `server*`, by day; the newest so many.

    Raises:
        UsageError: there is no log, or `newest` is below 1.
    """
    if newest is not None and newest < 1:
        raise UsageError(f"--max-num-files {newest} is no number of files; give 1 or more.")
    base = root.expanduser()
    folders = [base, *(Path(f) for f in sorted(glob.glob(str(base / "server*"))))]
    found = [p for f in folders if f.is_dir() for p in f.iterdir() if _LOG_NAME.fullmatch(p.name)]
    if not found:
        raise UsageError(
            f"{root} holds no log (YYYY-MM-DD{LOG_SUFFIX}), nor do its folders server*; "
            "name the folder that the web server writes its logs to."
        )
    found.sort(key=lambda p: (p.name, str(p)))
    return found[-newest:] if newest else found


def read_events(paths: Iterable[Path]) -> Iterator[Event | Unread]:
    """Every line of the files in order, in constant memory: an event, or why it is none.

    Raises:
        DataError: a file cannot be opened.
    """
    for path in paths:
        try:
            handle = path.open("rb")
        except OSError as error:
            raise DataError(f"{path.name} cannot be read: {error.strerror}.") from None
        with handle:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    yield _event(line, str(path), number)


def _event(line: bytes, path: str, number: int) -> Event | Unread:
    try:
        row = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        return Unread(reason=why_unreadable(line), path=path, line=number)
    if isinstance(row, dict) and row.get("type") not in KINDS:
        return Unread(reason="unknown_type", path=path, line=number)
    try:
        return event_from_row(row)
    except DataError:
        return Unread(reason="bad_row", path=path, line=number)


def why_unreadable(line: bytes) -> UnreadReason:
    """Why a line that is no JSON is none."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return "not_utf8"
    return "not_json" if text.rstrip().endswith("}") else "torn_line"
