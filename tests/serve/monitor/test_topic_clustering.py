"""Planted topics are found again, by words, by an endpoint's vectors and by a model here."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_judge import FakeJudge

pytest.importorskip("sklearn")
from sklearn.metrics import adjusted_rand_score

from fastchat.serve.monitor import summarize_cluster, topic_clustering

WORDS = {
    "cooking": "boil egg water pan oven bake bread flour butter soup onion recipe",
    "python": "python function list loop class import error file string variable code",
    "travel": "flight hotel city train ticket museum beach passport tour island weekend",
    "football": "goal match league striker keeper penalty stadium coach referee cup",
}
TOPICS = {topic: words.split() for topic, words in WORDS.items()}


def planted(n: int = 40) -> list[tuple[str, str]]:
    """Topic and prompt."""
    rng = random.Random(0)
    rows = [(t, " ".join(rng.sample(words, 6))) for t, words in TOPICS.items() for _ in range(n)]
    rng.shuffle(rows)
    return rows


@pytest.fixture
def battles(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A file of battles, and the topic of each prompt."""
    rows = planted()
    path = tmp_path / "battles.json"
    path.write_text(
        json.dumps(
            [
                {"conversation_a": [{"role": "user", "content": text}], "question_id": str(i)}
                for i, (_, text) in enumerate(rows)
            ]
        )
    )
    return path, {text: topic for topic, text in rows}


def score(folder: Path, name: str, truth: dict[str, str]) -> float:
    lines = (folder / f"{name}_all.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return adjusted_rand_score([truth[r["text"]] for r in rows], [r["cluster"] for r in rows])


def run(path: Path, out: Path, *flags: str) -> int:
    return topic_clustering.main(["--input-file", str(path), "--output-dir", str(out), *flags])


@pytest.mark.parametrize("algorithm", ["kmeans", "aggcls", "HDBSCAN"])
def test_planted_topics_are_found_by_words(
    battles: tuple[Path, dict[str, str]], tmp_path: Path, algorithm: str
) -> None:
    path, truth = battles
    out = tmp_path / "out"
    assert run(path, out, "--num-clusters", "4", "--cluster-alg", algorithm) == 0
    (name,) = [p.name.removesuffix("_all.jsonl") for p in out.glob("*_all.jsonl")]
    assert name == f"results_c4_{algorithm}"
    assert score(out, name, truth) >= 0.9
    described = json.loads((out / f"{name}_cluster.json").read_text())
    sizes = [cluster["size"] for cluster in described]
    assert sizes == sorted(sizes, reverse=True)
    for cluster in described:
        assert set(cluster["random_prompts"]) == set(cluster["top_prompts"])
    text = (out / f"{name}_topk.txt").read_text()
    assert text.startswith("=== cluster 0:") and text.count("===") == 8


class Vectors:
    """Stands for the official client: a vector of topics' words, batches kept."""

    def __init__(self, **_: Any) -> None:
        self.embeddings = self
        self.sizes: list[int] = []

    def __enter__(self) -> "Vectors":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def create(self, *, input: list[str], model: str) -> Any:
        assert model == "small"
        rows = [[float(len(set(t.split()) & set(w))) for w in TOPICS.values()] for t in input]
        made = [type("Item", (), {"index": i, "embedding": r}) for i, r in enumerate(rows)]
        return type("Reply", (), {"data": list(reversed(made))})


def test_an_endpoints_vectors_are_used_and_kept(
    battles: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openai.OpenAI", Vectors)
    path, truth = battles
    flags = ["--num-clusters", "4", "--model", "small", "--batch-size", "7"]
    assert run(path, tmp_path / "a", *flags, "--save-embeddings") == 0
    assert score(tmp_path / "a", "results_c4_kmeans", truth) >= 0.9
    kept = tmp_path / "a" / "embeddings.npy"
    assert np.load(kept).shape[1] == 4
    monkeypatch.setattr("openai.OpenAI", None)
    assert run(path, tmp_path / "b", *flags, "--embeddings-file", str(kept)) == 0
    name = "results_c4_kmeans_all.jsonl"
    assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()


@pytest.mark.slow
def test_a_model_in_this_process_makes_the_vectors(tmp_path: Path) -> None:
    import fastchat.model as package

    shipped = str(Path(package.__file__).parent / "vicuna-tiny")
    rows = planted(12)
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for _, text in rows))
    flags = ["--num-clusters", "4", "--model-path", shipped, "--save-embeddings"]
    assert run(path, tmp_path, *flags) == 0
    lengths = np.linalg.norm(np.load(tmp_path / "embeddings.npy"), axis=1)
    assert lengths == pytest.approx(np.ones(len(lengths)), abs=1e-5)
    print(score(tmp_path, "results_c4_kmeans", {text: topic for topic, text in rows}))


def test_lengths_languages_and_doubles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    rows: list[Any] = [
        *({"text": "How do I cook an egg in water?"}, {"text": "in water, how do I cook AN egg"}),
        *({"turns": ["Where is the station, please?", "x"]}, {"text": "y" * 90}),
        *({"text": "请问鸡蛋应该怎么煮才好吃？"}, {"nothing": 1}),
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"text')
    flags = ["--min-length", "5", "--max-length", "80", "--english-only", "--num-clusters", "2"]
    assert run(path, tmp_path, *flags) == 0
    said = capsys.readouterr().out
    for line in ("too_short: 1", "too_long: 1", "another_language: 1", "duplicate: 1"):
        assert f"left out, {line}" in said
    assert "no_text: 1" in said and "torn_line: 1" in said and "prompts: 2, in 2" in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-clusters", "0"], "--num-clusters 0"),
        (["--num-clusters", "9000"], "--num-clusters 9000"),
        (["--min-length", "9000"], "no prompt is left"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--embeddings-file", "bad.npy"], "bad.npy"),
    ],
)
def test_what_cannot_be_is_told(
    battles: tuple[Path, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.npy").write_bytes(b"\x80\x04")
    assert run(battles[0], tmp_path, *flags) != 0
    assert words in capsys.readouterr().err


@pytest.fixture
def fake() -> Iterator[FakeJudge]:
    judge = FakeJudge()
    judge.start()
    yield judge
    judge.stop()


def test_a_model_names_the_topics(
    battles: tuple[Path, dict[str, str]], fake: FakeJudge, tmp_path: Path
) -> None:
    def name(body: dict[str, Any]) -> str:
        words = body["messages"][0]["content"].split()
        return 'Topic: "' + max(TOPICS, key=lambda t: sum(w in TOPICS[t] for w in words)) + '."'

    fake.rule = name
    assert run(battles[0], tmp_path, "--num-clusters", "4") == 0
    source = tmp_path / "results_c4_kmeans_cluster.json"
    argv = ["--input-file", str(source), "--output-dir", str(tmp_path), "--api-base", fake.url]
    assert summarize_cluster.main([*argv, "--num-prompts", "10"]) == 0
    path = tmp_path / "cluster_summary_4.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["topic"] for row in rows} == set(TOPICS)
    assert sum(row["percentage"] for row in rows) == pytest.approx(100, abs=0.1)
    assert all(body["messages"][0]["content"].count("\n- ") == 10 for body in fake.bodies)
    n_asked = len(fake.bodies)
    assert summarize_cluster.main([*argv, "--num-prompts", "10"]) == 0
    assert len(fake.bodies) == n_asked
    pickled = tmp_path / "old_cluster.pkl"
    pickled.write_bytes(b"\x80")
    assert summarize_cluster.main(["--input-file", str(pickled)]) == 1
