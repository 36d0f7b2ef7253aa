import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fastchat.arena import json_array
from fastchat.arena.row_files import read_rows, write_rows
from fastchat.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"question_id": "a", "turn": 1, "said": [{"role": "user", "content": "é 你"}]},
    {"question_id": "b", "turn": 2, "said": [{"role": "user", "content": "x,\ny"}]},
]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    refused: Counter[str] = Counter()
    assert write_rows(path, iter(ROWS)) == 2
    assert list(read_rows(path, refused)) == ROWS and not refused
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_cut_off_or_spoiled_gives_its_whole_rows(tmp_path: Path) -> None:
    array, lines = tmp_path / "rows.json", tmp_path / "rows.jsonl"
    array.write_bytes(b'\xef\xbb\xbf[{"a": 1},\n{"a": 2},\n{"a": 3, "b": "x')
    refused: Counter[str] = Counter()
    assert list(read_rows(array, refused)) == [{"a": 1}, {"a": 2}]
    assert refused == {"torn_line": 1}
    lines.write_bytes(b'{"a": 1}\n{"a": "\xff"}\n\n[3]\n{bad}\n{"a": 2}\n{"a"')
    refused.clear()
    assert list(read_rows(lines, refused)) == [{"a": 1}, {"a": 2}]
    assert refused == {"not_utf8": 1, "not_a_row": 1, "not_json": 1, "torn_line": 1}


@pytest.mark.parametrize(
    ("text", "wanted", "reasons"),
    [
        ('[{"a": [1]},\n{"a": "]\\""}]', 2, {}),
        ('[\n  {\n    "a": 1\n  },\n  {\n    "a": {"b": [2]}\n  }\n]\n', 2, {}),
        ('[{"a": "\\\\"}, {"a": "\\""}]', 2, {}),
        ('[{"a": 1}, 3, [4], "x", {"a": 2}]', 2, {"not_a_row": 3}),
        ('[ {"a": 1},{"a": 2},{"a": "}]', 2, {"torn_line": 1}),
        ("[]", 0, {}),
        ("[\n", 0, {}),
        (" ", 0, {}),
        ('{"a": 1}', 1, {}),
    ],
)
def test_arrays_are_read_however_they_are_laid_out(
    tmp_path: Path, text: str, wanted: int, reasons: dict[str, int]
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    refused: Counter[str] = Counter()
    assert len(list(read_rows(path, refused))) == wanted and refused == reasons


@pytest.mark.parametrize("block", [1, 2, 7, 64])
def test_blocks_may_end_anywhere_in_an_array(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(json_array, "BLOCK", block)
    rows = [{"a": 'é "quoted" \\ {[', "b": [i, {"c": None}]} for i in range(9)]
    for indent in (None, 1):
        file = io.BytesIO(json.dumps(rows, indent=indent).encode()[1:])
        assert [json.loads(text) for text in json_array.array_elements(file)] == rows


def test_a_table_has_the_columns_of_all_rows_and_rows_that_make_none_are_told(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.parquet"
    rows: list[dict[str, Any]] = [{"a": 1, "m": {"x": 1}}] * 5000
    assert write_rows(path, [*rows, {"a": 1.5, "late": "z", "m": {"y": 2}}]) == 5001
    held = list(read_rows(path, Counter()))
    assert held[0]["a"] == 1 and held[-1] == {"a": 1.5, "late": "z", "m": {"x": None, "y": 2}}
    with pytest.raises(DataError, match="make no table"):
        write_rows(tmp_path / "rows.csv", [{}])
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize("name", ["rows.txt", "none.json", "bad.parquet"])
def test_what_is_no_file_of_rows_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=name):
        list(read_rows(tmp_path / name, Counter()))
