"""Conversations with lists that count 1, 1 are dropped or repaired."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.filter_wrong_format import main


@pytest.fixture
def source(tmp_path: Path, talk: Callable[..., dict[str, Any]]) -> Path:
    records = [
        talk("good", "How?", "Steps:\n1. a\n2. b", model="gpt4"),
        talk("bad", "How?", "Steps:\n1. a\n1. b"),
        talk("code", "How?", "Steps:\n```\n1. a\n1. b\n```"),
    ]
    path = tmp_path / "in.json"
    path.write_text(json.dumps(records), "utf-8")
    return path


def test_it_drops_them_and_tells_their_ids(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The published pipeline writes over its input.
    assert main(["--in", str(source), "--out", str(source)]) == 0
    assert capsys.readouterr().out == "bad\n#in: 3, #out: 2\n"
    left = json.loads(source.read_text("utf-8"))
    assert [record["id"] for record in left] == ["good", "code"]
    assert left[0]["model"] == "gpt4"


def test_it_repairs_them(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = source.with_name("report.json")
    out = source.with_name("out.jsonl")
    flags = ["--fix", "--report", str(report)]
    assert main(["--in-file", str(source), "--out-file", str(out), *flags]) == 0
    assert capsys.readouterr().out == "#in: 3, #out: 3\n"
    records = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert records[1]["conversations"][1]["value"] == "Steps:\n1. a\n2. b"
    assert json.loads(report.read_text("utf-8"))["changed"] == {"list renumbered": 1}


def test_an_output_must_be_named(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--in", str(source)]) == 2
    assert "--out-file" in capsys.readouterr().err


def test_as_many_are_dropped_as_the_generator_made(
    generate: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = generate("--n", "1500", "--seed", "0", "--format", "markdown")
    truth = made.truth()
    out = tmp_path / "out.json"
    assert main(["--in", str(made.path), "--out", str(out), "--quiet"]) == 0
    *ids, summary = capsys.readouterr().out.splitlines()
    wrong = {record["id"] for record in truth if record["defect"] == "wrong_list"}
    assert len(ids) > 10
    # A duplicate of such a record is wrong as well.
    assert wrong <= set(ids)
    assert summary == f"#in: 1500, #out: {1500 - len(ids)}"
