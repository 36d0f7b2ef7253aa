"""Conversations are cut to their first rounds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.extract_single_round import main


@pytest.mark.parametrize(
    ("flags", "lengths"), [([], {"long": 2, "two": 2}), (["--rounds", "2"], {"long": 4, "two": 2})]
)
def test_the_first_rounds_stay(
    tmp_path: Path,
    talk: Callable[..., dict[str, Any]],
    flags: list[str],
    lengths: dict[str, int],
) -> None:
    records = [
        talk("long", "a", "b", "c", "d", "e", "f", model="gpt4"),
        talk("one", "a"),
        talk("two", "a", "b"),
    ]
    source, report = tmp_path / "data.json", tmp_path / "report.json"
    source.write_text(json.dumps(records), "utf-8")
    assert main(["--in", str(source), "--report", str(report), *flags]) == 0
    written = json.loads((tmp_path / "data_single.json").read_text("utf-8"))
    assert {record["id"]: len(record["conversations"]) for record in written} == lengths
    assert written[0]["model"] == "gpt4"
    assert json.loads(report.read_text("utf-8"))["dropped"] == {"fewer than two messages": 1}


def test_no_rounds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--in", str(tmp_path / "x.json"), "--rounds", "0"]) == 2
    assert "--rounds 0 is too small" in capsys.readouterr().err
