"""A fake reviewer, an empty folder, and tables made on the spot."""

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from fake_judge import FakeJudge


@pytest.fixture
def fake() -> Iterator[FakeJudge]:
    server = FakeJudge()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


@pytest.fixture
def tables(here: Path) -> Path:
    """Three questions, answers of three models, and reviews of two pairs."""
    folder = here / "mine"
    (folder / "answer").mkdir(parents=True)
    (folder / "review").mkdir()
    questions = [(1, "generic"), (2, "coding"), (3, "math")]
    put(
        folder / "question.jsonl",
        [{"question_id": n, "text": f"q{n}?", "category": c} for n, c in questions],
    )
    for model in ("old-7b", "other", "new-7b"):
        put(
            folder / f"answer/answer_{model}.jsonl",
            [
                {
                    "answer_id": f"{model}-{n}",
                    "question_id": n,
                    "model_id": f"{model}:1",
                    "text": f"{model} says {n}",
                }
                for n, _ in questions
            ],
        )
    for other, scores in (
        ("old-7b", [(1, 9), (5, 5), (8, 2.5)]),
        ("other", [(9, 8), (-1, -1), (7, 7)]),
    ):
        put(
            folder / f"review/review_{other}_new-7b.jsonl",
            [
                {
                    "review_id": f"r{other}{n}",
                    "question_id": n,
                    "answer1_id": f"{other}-{n}",
                    "answer2_id": f"new-7b-{n}",
                    "text": f"{a} {b}\nAssistant 1 and Assistant 2 <b>tried</b>.",
                    "score": [a, b],
                    "reviewer_id": "rule",
                }
                for (n, _), (a, b) in zip(questions, scores, strict=True)
            ],
        )
    return folder


def put(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
