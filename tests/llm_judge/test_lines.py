from pathlib import Path

import pytest

from fastchat.errors import DataError
from fastchat.llm_judge.lines import Appender, put_in_order, read_rows, replace_file
from fastchat.llm_judge.records import Answer, Question


def row(number: int, text: str = "x") -> Answer:
    choices = [{"index": 0, "turns": [text]}]
    return Answer.model_validate({"question_id": number, "model_id": "m", "choices": choices})


def read(path: Path):
    return read_rows(path, Answer, lambda answer: answer.question_id)


def test_a_file_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    held = read(tmp_path / "none.jsonl")
    assert (held.rows, held.report()) == ((), [])


def test_the_last_row_of_a_key_counts_and_the_others_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Appender(path) as file:
        for text in ("old", "new"):
            file.write(row(1, text))
    held = read(path)
    assert [answer.choices[0].turns for answer in held.rows] == [("new",)]
    assert held.report() == ["a.jsonl: 1 duplicate rows, the last of each counts"]


def test_a_torn_line_is_counted_and_the_next_row_begins_after_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Appender(path) as file:
        file.write(row(1))
        file.write(row(2))
    path.write_bytes(path.read_bytes()[:-20])
    with Appender(path) as file:
        file.write(row(3))
    held = read(path)
    assert [answer.question_id for answer in held.rows] == [1, 3]
    assert held.n_torn == 1


def test_a_row_of_another_kind_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"question_id": "x", "category": "c", "turns": ["t"]}\n')
    held = read_rows(path, Question, lambda question: question.question_id)
    assert held.rows == ()
    assert "a.jsonl:2: question_id: " in held.report()[0]


def test_putting_in_order_keeps_what_it_cannot_read_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Appender(path) as file:
        file.write(row(2))
        file.write({"question_id": 3})
        file.write(row(1))
    put_in_order(path, Answer, lambda a: a.question_id, lambda a: a.question_id)
    assert [answer.question_id for answer in read(path).rows] == [1, 2]
    assert (tmp_path / "a.jsonl.rejected").read_text() == '{"question_id":3}\n'


def test_a_replacement_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("old")

    def broken():
        yield b"new"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        replace_file(path, broken())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        Appender(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)
