"""A fake judge, and an empty folder to judge in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_judge import FakeJudge


@pytest.fixture
def fake() -> Iterator[FakeJudge]:
    judge = FakeJudge()
    judge.start()
    yield judge
    judge.stop()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path
