"""What a run leaves beside its unfinished output, so that a later one can go on.

Twice a second, after a chunk of the input, the output is flushed and `NAME.part.state` is
replaced: how many chunks are done, where the outputs then ended, and the counts so far. A run
that goes on cuts the outputs at those places and skips those chunks; the rest comes out as it
would have.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastchat.data.output import Mark, part_path
from fastchat.errors import UsageError

SAVE_EVERY_S = 0.5
"""Time between two saves; a killed run does again what it did since the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run came."""

    chunks: int
    marks: tuple[Mark, ...]
    """Of the output, and of the rejects if they are written."""
    report: Mapping[str, Any]


class Journal:
    """Keeps the progress of one output."""

    def __init__(
        self, out_file: str, *, inputs: Sequence[str], settings: Mapping[str, Any]
    ) -> None:
        part = part_path(out_file)
        self.path = part.with_name(part.name + ".state")
        self._saved = time.monotonic()
        self._run = {
            "settings": json.loads(json.dumps(settings, default=str)),
            "inputs": [_identity(path) for path in inputs],
        }

    def is_due(self) -> bool:
        """Whether enough has been done since the last time to keep it."""
        return time.monotonic() - self._saved >= SAVE_EVERY_S

    def save(self, progress: Progress) -> None:
        """Replaces what was kept."""
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.write_text(json.dumps({**self._run, **asdict(progress)}), "utf-8")
        os.replace(fresh, self.path)
        self._saved = time.monotonic()

    def load(self) -> Progress | None:
        """How far the earlier run came; None when there was none.

        Raises:
            UsageError: it had other settings, or the input has changed since.
        """
        try:
            found = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise UsageError(f"{self.path} is damaged; run again without --resume.") from None
        for name, now in self._run.items():
            if found.get(name) != now:
                raise UsageError(
                    f"the unfinished output belongs to a run with other {name}; run again "
                    "without --resume to begin anew."
                )
        return Progress(
            chunks=found["chunks"],
            marks=tuple(Mark(**mark) for mark in found["marks"]),
            report=found["report"],
        )

    def remove(self) -> None:
        """Forgets the run."""
        self.path.unlink(missing_ok=True)


def _identity(path: str) -> list[Any]:
    """What tells a file from another of the same name."""
    found = Path(path).stat()
    return [str(Path(path).resolve()), found.st_size, found.st_mtime_ns]
