"""Samples of conversations that are not too long."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastchat.data.records import Record
from fastchat.data.sample import Reservoir, main
from fastchat.data.steps import Dropped


@pytest.fixture
def source(tmp_path: Path, talk: Callable[..., dict[str, Any]]) -> Path:
    """Two hundred records of 2 to 401 characters."""
    path = tmp_path / "data.json"
    records = [talk(f"r{i}", "q", "a" * (2 * i + 1)) for i in range(200)]
    path.write_text(json.dumps(records), "utf-8")
    return path


def run(source: Path, *flags: str) -> list[str]:
    out = source.with_name("out.json")
    assert main(["--in", str(source), "--out", str(out), "--quiet", *flags]) == 0
    return [record["id"] for record in json.loads(out.read_text("utf-8"))]


def shuffled(n: int, seed: int) -> list[str]:
    """The order of the published command."""
    order = list(range(n))
    np.random.seed(seed)
    np.random.shuffle(order)
    return [f"r{i}" for i in order]


@pytest.mark.parametrize(
    ("flags", "begin", "end", "seed"),
    [
        ([], 0, 100, 42),
        (["--begin", "10", "--end", "30"], 10, 30, 42),
        (["--begin", "150", "--end", "500", "--seed", "7"], 150, 500, 7),
    ],
)
def test_places_of_the_published_shuffle_are_taken(
    source: Path, flags: list[str], begin: int, end: int, seed: int
) -> None:
    assert run(source, *flags) == shuffled(200, seed)[begin:end]


def test_what_is_too_long_is_left_out(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = source.with_name("report.json")
    left = run(source, "--max-length", "102", "--end", "1000", "--report", str(report))
    assert left == [id for id in shuffled(200, 42) if int(id[1:]) <= 50]
    assert capsys.readouterr().out == "#in: 200, #out: 51\n"
    counts = json.loads(report.read_text("utf-8"))
    assert counts["dropped"] == {"too long": 149, "not drawn": 0}


def test_in_order_the_first_places_are_taken(source: Path) -> None:
    assert run(source, "--keep-order", "--end", "3") == ["r0", "r1", "r2"]


def test_a_number_of_records_is_drawn_from_those_that_fit(source: Path) -> None:
    left = run(source, "--n", "20", "--max-length", "102")
    assert len(left) == 20 and left == sorted(left, key=lambda id: int(id[1:]))
    assert all(int(id[1:]) <= 50 for id in left)
    assert left != run(source, "--n", "20", "--max-length", "102", "--seed", "1")


def test_each_record_is_as_likely_as_any_other() -> None:
    records = [Record(id=str(i), turns=()) for i in range(10)]
    drawn: Counter[str] = Counter()
    for seed in range(3000):
        outcome = list(Reservoir(n=3, seed=seed).apply_all(records))
        kept = [x.id for x in outcome if isinstance(x, Record)]
        assert len(kept) == 3
        assert sum(isinstance(x, Dropped) for x in outcome) == 7
        drawn.update(kept)
    # 900 each are expected; the seeds are fixed, so this does not change from run to run.
    assert all(800 < drawn[str(i)] < 1000 for i in range(10))


def test_the_length_may_be_counted_in_tokens(source: Path) -> None:
    flags = ["--unit", "tokens", "--model-name", "vicuna-tiny", "--end", "1000"]
    assert 0 < len(run(source, *flags, "--max-length", "60")) < 200


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--unit", "tokens"], "--unit tokens needs --model-name-or-path"),
        (["--model-name", "vicuna-tiny"], "add --unit tokens"),
        (["--n", "0"], "--n 0 is too small"),
        (["--n", "5", "--end", "10"], "leave --begin and --end out"),
        (["--n", "5", "--keep-order"], "leave --keep-order out"),
        (["--n", "5", "--resume"], "--resume cannot be"),
        (["--resume"], "--resume cannot be"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(
    source: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["--in", str(source), *flags]) == 2
    assert message in capsys.readouterr().err
