"""What a judge is asked about a prompt, and how its words become labels (`tasks.toml`)."""

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import pydantic

from fastchat.errors import DataError

LONGEST = 12_500
"""Characters of a prompt that the judge sees."""

_DECISION = re.compile(r"<decision>\s*(yes|no)\b", re.IGNORECASE)
_SCORE = re.compile(r"<score>\s*(\d(?:\.\d+)?)")
_LIST = re.compile(r"\[\s*((?:\d\s*(?:,\s*\d\s*)*)?)\]")
_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL)


class _Entry(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    answer: Literal["decision", "score", "criteria"]
    prompt: str
    label: str = ""
    criteria: tuple[str, ...] = ()
    threshold: float = 4.0
    vision: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One question about a prompt."""

    name: str
    entry: _Entry

    @property
    def is_vision(self) -> bool:
        """Whether it is asked about pictures."""
        return self.entry.vision

    def ask(self, prompt: str) -> str:
        """What the judge is told; the person's words are data in it, never a form to fill."""
        before, _, after = self.entry.prompt.strip().partition("{prompt}")
        return before + prompt[:LONGEST] + after

    def labels(self, reply: str) -> dict[str, Any] | None:
        """The published labels in the judge's words; None where they cannot be read."""
        said = _REASONING.sub("", reply)
        match self.entry.answer:
            case "decision":
                found = _DECISION.findall(said)
                return {self.entry.label: found[-1].lower() == "yes"} if found else None
            case "score":
                found = _SCORE.findall(said)
                if not found or not 0 <= (score := float(found[-1])) <= 5:
                    return None
                return {self.entry.label: score >= self.entry.threshold, "score": score}
            case "criteria":
                found = _LIST.findall(said)
                if not found:
                    return None
                numbers = {int(n) for n in found[-1].replace(" ", "").split(",") if n.strip()}
                if not numbers <= set(range(1, len(self.entry.criteria) + 1)):
                    return None
                return {name: i in numbers for i, name in enumerate(self.entry.criteria, 1)}


@functools.cache
def shipped_tasks() -> Mapping[str, Task]:
    """The tasks that ship, by name."""
    folder = resources.files("fastchat.serve.monitor.classify")
    return _tasks(folder.joinpath("tasks.toml").read_text("utf-8"), "tasks.toml")


def read_tasks(path: Path) -> Mapping[str, Task]:
    """The tasks of a person's own file, laid out as `tasks.toml`.

    Raises:
        DataError: the file is missing or not what it should be; the message says where.
    """
    try:
        return _tasks(path.read_text("utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None


def _tasks(text: str, file: str) -> dict[str, Task]:
    found: dict[str, Task] = {}
    try:
        for name, value in tomllib.loads(text).get("task", {}).items():
            entry = _Entry.model_validate(value)
            if entry.prompt.count("{prompt}") != 1:
                raise DataError(f"{file}: task {name}: prompt must hold {{prompt}} once.")
            if (entry.answer == "criteria") != bool(entry.criteria) or (
                entry.answer != "criteria" and not entry.label
            ):
                raise DataError(f"{file}: task {name}: give criteria, or else a label.")
            found[name] = Task(name=name, entry=entry)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{file} is no TOML: {error}.") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{file}: {where}: {first['msg']}.") from None
    return found
