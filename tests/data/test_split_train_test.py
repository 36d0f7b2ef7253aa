"""Records are shuffled as published and split in two."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastchat.data.split_train_test import main, split_order

Talk = Callable[..., dict[str, Any]]


def ids(path: Path) -> list[str]:
    return [record["id"] for record in json.loads(path.read_text("utf-8"))]


@pytest.fixture
def source(tmp_path: Path, talk: Talk) -> Path:
    # A folder whose name holds an ending is left alone.
    folder = tmp_path / "my.json.d"
    folder.mkdir()
    path = folder / "data.json"
    path.write_text(json.dumps([talk(f"r{i}", f"q{i}", f"a{i}") for i in range(101)]), "utf-8")
    return path


def test_the_permutation_is_numpys_legacy_one() -> None:
    np.random.seed(0)
    assert split_order(50, seed=0).tolist() == np.random.permutation(50).tolist()


@pytest.mark.parametrize(("flags", "n_train"), [([], 90), (["--ratio", "0.99"], 99)])
def test_both_files_are_named_after_the_input(
    source: Path, capsys: pytest.CaptureFixture[str], flags: list[str], n_train: int
) -> None:
    assert main(["--in", str(source), *flags]) == 0
    order = [f"r{i}" for i in split_order(101, seed=0)]
    assert ids(source.parent / "data_train.json") == order[:n_train]
    assert ids(source.parent / "data_test.json") == order[n_train:]
    assert capsys.readouterr().out == f"#train: {n_train}, #test: {101 - n_train}\n"


def test_records_come_back_as_they_were(tmp_path: Path, talk: Talk) -> None:
    records = [talk("a", "q", "a", model="gpt4", system="Be brief."), talk("b", "é\n", "日")]
    source = tmp_path / "x.jsonl"
    source.write_text("\n".join(map(json.dumps, records)), "utf-8")
    flags = ["--train-out", str(tmp_path / "t.json"), "--test-out", str(tmp_path / "e.json")]
    assert main(["--in", str(source), "--ratio", "1", *flags]) == 0
    written = json.loads((tmp_path / "t.json").read_text("utf-8"))
    assert sorted(written, key=lambda record: record["id"]) == records
    assert (tmp_path / "e.json").read_text("utf-8") == "[]"


def test_begin_end_and_seed_are_honoured(source: Path) -> None:
    assert main(["--in", str(source), "--begin", "10", "--end", "20", "--seed", "5"]) == 0
    order = [f"r{10 + i}" for i in split_order(10, seed=5)]
    assert ids(source.parent / "data_train.json") == order[:9]
    assert ids(source.parent / "data_test.json") == order[9:]


def test_no_family_stands_on_both_sides(tmp_path: Path, talk: Talk) -> None:
    records = [
        talk(f"c{family}_{2 * part}", "q", "a")
        for family in range(40)
        for part in range(family % 5 + 1)
    ]
    source = tmp_path / "split.json"
    source.write_text(json.dumps(records), "utf-8")
    assert main(["--in", str(source), "--group", "--ratio", "0.8"]) == 0
    train, test = ids(tmp_path / "split_train.json"), ids(tmp_path / "split_test.json")
    assert sorted(train + test) == sorted(record["id"] for record in records)
    families = [{id.rsplit("_", 1)[0] for id in side} for side in (train, test)]
    assert not families[0] & families[1]
    assert len(train) == int(0.8 * len(records))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ratio", "1.5"], "--ratio 1.5 is no share"),
        (["--out", "x.json"], "--train-out and --test-out"),
        (["--resume"], "--resume cannot be"),
        (["--train-out", "-"], "cannot share the standard output"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(
    source: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["--in", str(source), *flags]) == 2
    assert message in capsys.readouterr().err


def test_names_are_needed_where_the_input_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--in", "-"]) == 2
    assert "--train-out" in capsys.readouterr().err
