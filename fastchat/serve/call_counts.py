"""Who called which model when, by the server's logs; and whether that is enough for now.

Logs are read on from where they were at the last question, so that counts are those of the log as
it stands. A line that is not whole yet is left for the next time.
"""

import os
import re
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pydantic

from fastchat.errors import DataError, StoreError

HOUR_S = 3600.0
DAY_S = 86_400.0
LONGEST_LINE = 64 << 20

_LOG_NAME = re.compile(r"\d{4}-\d{2}-\d{2}-conv\.json")


class Limits(pydantic.BaseModel):
    """How often models may be called; what is not named has no limit."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    model_hourly: dict[str, int] = {}
    """Calls of a model within an hour, by all people together."""
    user_daily: dict[str, int] = {}
    """Calls of a model within a day, by one person."""

    @pydantic.field_validator("model_hourly", "user_daily")
    @classmethod
    def _not_negative(cls, value: dict[str, int]) -> dict[str, int]:
        if any(limit < 0 for limit in value.values()):
            raise ValueError("a limit is a number of calls, 0 or more")
        return value


def read_limits(path: Path) -> Limits:
    """The limits of a JSON file.

    Raises:
        DataError: the file is missing or not what it should be; the message says where.
    """
    try:
        return Limits.model_validate(orjson.loads(path.read_bytes()))
    except OSError as error:
        raise DataError(f"--limits {path} cannot be read: {error.strerror}.") from None
    except orjson.JSONDecodeError as error:
        raise DataError(f"--limits {path} is no JSON: {error}.") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise DataError(f"--limits {path}: {where}: {first['msg']}.") from None


@dataclass(frozen=True, slots=True)
class Call:
    """One chat."""

    at: float
    model: str
    user: str


@dataclass(slots=True)
class CallCounts:
    """Calls of the last day, the oldest first, with their sums."""

    calls: deque[Call] = field(default_factory=deque[Call])
    by_user: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """Calls of the last day by model and person."""

    def add(self, calls: Iterable[Call], now: float) -> None:
        """Counts calls; those older than a day are forgotten."""
        fresh = sorted((c for c in calls if c.at > now - DAY_S), key=lambda c: c.at)
        late = bool(self.calls and fresh and fresh[0].at < self.calls[-1].at)
        self.calls.extend(fresh)
        self.by_user.update((c.model, c.user) for c in fresh)
        if late:  # another server's log, read later
            self.calls = deque(sorted(self.calls, key=lambda c: c.at))
        self.forget(now)

    def forget(self, now: float) -> None:
        """Drops what is older than a day."""
        while self.calls and self.calls[0].at <= now - DAY_S:
            gone = self.calls.popleft()
            key = (gone.model, gone.user)
            self.by_user[key] -= 1
            if not self.by_user[key]:
                del self.by_user[key]

    def since(self, now: float, seconds: float) -> Iterable[Call]:
        """The calls of the last so many seconds, the newest first."""
        for call in reversed(self.calls):
            if call.at <= now - seconds:
                return
            yield call

    def reason(self, limits: Limits, model: str, user: str, *, now: float) -> str:
        """Why the person may not call the model now, in the published words; empty if they may."""
        hourly = limits.model_hourly.get(model)
        if hourly is not None:
            n = sum(c.model == model for c in self.since(now, HOUR_S))
            if n >= hourly:
                return f"MODEL_HOURLY_LIMIT ({model}): {hourly}"
        daily = limits.user_daily.get(model)
        if daily is not None and self.by_user[model, user] >= daily:
            return f"USER_DAILY_LIMIT ({model}): {daily}"
        return ""


@dataclass(slots=True)
class LogTail:
    """The chats that were added to the logs of some folders since the last look."""

    folders: tuple[Path, ...]
    n_unread: int = 0
    """Lines that are no event."""
    _places: dict[Path, int] = field(default_factory=dict[Path, int])

    def new_calls(self, now: float) -> list[Call]:
        """The chats of what was added; of files older than two days none is read.

        Raises:
            StoreError: a log cannot be read now.
        """
        calls: list[Call] = []
        for path in self._files(now):
            try:
                calls += self._read(path)
            except FileNotFoundError:  # it was moved away just now
                self._places.pop(path, None)
            except OSError:
                raise StoreError("A log of the web server cannot be read.") from None
        return calls

    def _files(self, now: float) -> list[Path]:
        found: list[Path] = []
        for folder in self.folders:
            for root in (folder, *sorted(folder.glob("server*"))):
                if root.is_dir():
                    found += [p for p in root.iterdir() if _LOG_NAME.fullmatch(p.name)]
        return [p for p in found if _is_recent(p, now)]

    def _read(self, path: Path) -> list[Call]:
        """The chats of the whole lines after the last place; a file that shrank is read anew."""
        calls: list[Call] = []
        with path.open("rb") as file:
            place = self._places.get(path, 0)
            if os.fstat(file.fileno()).st_size < place:
                place = 0
            file.seek(place)
            for line in file:
                if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                    break
                place += len(line)
                if line.strip() and (call := self._call(line)) is not None:
                    calls.append(call)
        self._places[path] = place
        return calls

    def _call(self, line: bytes) -> Call | None:
        try:
            row = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
            if row["type"] != "chat":
                return None
            at, model, user = row["tstamp"], row["model"], row.get("ip", "")
            if isinstance(at, int | float) and isinstance(model, str) and isinstance(user, str):
                return Call(float(at), model, user)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            pass
        self.n_unread += 1
        return None


def _is_recent(path: Path, now: float) -> bool:
    try:
        return path.stat().st_mtime > now - 2 * DAY_S
    except OSError:
        return False
