"""Conversations are kept by the model that answered."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.extract_gpt4_only import main


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        ([], ["four", "dash", "none", "empty", "null"]),
        (["--only-marked"], ["four", "dash"]),
        (["--model", "gpt35"], ["other", "none", "empty", "null"]),
        (["--model", "gpt35", "--model", "gpt4", "--only-marked"], ["four", "other"]),
    ],
)
def test_what_is_left(
    tmp_path: Path,
    talk: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    left: list[str],
) -> None:
    records = [
        talk("four", "a", "b", model="gpt4"),
        talk("dash", "a", "b", model="gpt-4"),
        talk("other", "a", "b", model="gpt35"),
        talk("none", "a", "b"),
        talk("empty", "a", "b", model=""),
        talk("null", "a", "b", model=None),
    ]
    source = tmp_path / "data.json"
    source.write_text(json.dumps(records), "utf-8")
    assert main(["--in", str(source), *flags]) == 0
    written = json.loads((tmp_path / "data_gpt4.json").read_text("utf-8"))
    assert [record["id"] for record in written] == left
    assert capsys.readouterr().out == f"#in: 6, #out: {len(left)}\n"


def test_begin_and_end_count_as_slices_do(
    tmp_path: Path, talk: Callable[..., dict[str, Any]]
) -> None:
    source, out = tmp_path / "data.jsonl", tmp_path / "out.json"
    source.write_text("\n".join(json.dumps(talk(str(i), "a", "b")) for i in range(5)), "utf-8")
    assert main(["--in", str(source), "--out", str(out), "--begin", "1", "--end", "-1"]) == 0
    assert [record["id"] for record in json.loads(out.read_text("utf-8"))] == ["1", "2", "3"]
