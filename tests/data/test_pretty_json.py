"""Values are written anew in another layout."""

import json
from pathlib import Path

import pytest

from fastchat.data.pretty_json import main

VALUES = [{"id": "é", "n": [1, 2.5, None, {}]}, {"any": "thing\n", "nested": {"x": []}}]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_the_layout_is_that_of_pythons_own_encoder(tmp_path: Path, suffix: str) -> None:
    source, out = tmp_path / f"in.{suffix}", tmp_path / "out.json"
    text = json.dumps(VALUES) if suffix == "json" else "\n".join(map(json.dumps, VALUES))
    source.write_text(text, "utf-8")
    assert main(["--in-file", str(source), "--out-file", str(out)]) == 0
    assert out.read_text("utf-8") == json.dumps(VALUES, indent=2, ensure_ascii=False)


def test_it_may_write_over_its_input_and_other_formats(tmp_path: Path) -> None:
    path, lines = tmp_path / "x.json", tmp_path / "x.jsonl.gz"
    path.write_text(json.dumps(VALUES), "utf-8")
    assert main(["--in", str(path), "--out", str(path)]) == 0
    assert main(["--in", str(path), "--out", str(lines)]) == 0
    assert main(["--in", str(lines), "--out", str(tmp_path / "y.json")]) == 0
    assert (tmp_path / "y.json").read_text("utf-8") == path.read_text("utf-8")


def test_a_broken_line_is_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.json"
    source.write_text('{"a": 1}\n{broken\n', "utf-8")
    assert main(["--in", str(source), "--out", str(out)]) == 1
    assert "in.jsonl:2: not valid JSON" in capsys.readouterr().err
    assert not out.exists()
