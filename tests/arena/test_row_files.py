from collections import Counter
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize("name", ["rows.txt", "none.json", "bad.parquet"])
def test_what_is_no_file_of_rows_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=name):
        list(read_rows(tmp_path / name, Counter()))
