"""Records and generated conversations for the tests of data commands."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What the shared generator wrote."""

    path: Path
    truth_path: Path

    def truth(self) -> list[dict[str, Any]]:
        """For each record what was done to it, and what must be kept."""
        return [json.loads(line) for line in self.truth_path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="session")
def generate(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Generated]:
    """Runs the generator of ShareGPT conversations once for each set of arguments."""
    made: dict[tuple[str, ...], Generated] = {}

    def make(*flags: str) -> Generated:
        if flags not in made:
            folder = tmp_path_factory.mktemp("sharegpt")
            made[flags] = Generated(path=folder / "html.json", truth_path=folder / "truth.jsonl")
            command = [sys.executable, str(shared / "tools" / "gen_sharegpt.py"), *flags]
            command += ["--out", str(made[flags].path), "--truth", str(made[flags].truth_path)]
            subprocess.run(command, check=True, capture_output=True, timeout=600)
        return made[flags]

    return make


def talk(id: str, *texts: str, **fields: Any) -> dict[str, Any]:
    """A record whose texts come from the human and the model in turn."""
    speakers = ("human", "gpt")
    turns = [{"from": speakers[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"id": id, "conversations": turns, **fields}


@pytest.fixture(name="talk")
def talk_fixture() -> Callable[..., dict[str, Any]]:
    """Makes a record of an id and texts."""
    return talk
