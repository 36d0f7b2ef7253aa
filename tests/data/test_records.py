"""Training records from JSON and JSON Lines."""

import json
from pathlib import Path

import pytest

from fastchat.data.records import Record, Rejected, Turn, parse_record, read_records
from fastchat.errors import DataError

GOOD = {
    "id": "a",
    "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}],
}


def test_an_array_and_lines_give_the_same_records(tmp_path: Path) -> None:
    array, lines = tmp_path / "a.json", tmp_path / "a.jsonl"
    array.write_text(json.dumps([GOOD, GOOD], indent=2), "utf-8")
    lines.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(GOOD), "utf-8")
    record = Record(
        id="a", turns=(Turn(speaker="human", text="Hi"), Turn(speaker="gpt", text="Hello."))
    )
    assert list(read_records(array)) == [record, record]
    assert list(read_records(lines)) == [record, record]


def test_a_first_system_turn_is_the_system_message_and_other_fields_travel() -> None:
    given = {
        "id": 7,
        "model": "gpt4",
        "conversations": [{"from": "system", "value": "Be brief."}, *GOOD["conversations"]],
    }
    record = parse_record(given, where="x")
    assert isinstance(record, Record)
    assert (record.id, record.system, record.extra) == ("7", "Be brief.", {"model": "gpt4"})
    assert [turn.speaker for turn in record.turns] == ["human", "gpt"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (5, "not an object"),
        ({"text": "a"}, "no conversations"),
        ({"conversations": "text"}, "conversations is not a list"),
        ({"conversations": [{"value": "x"}]}, "message without from"),
        ({"conversations": ["x"]}, "message is not an object"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "message without text"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, "message text is not a string"),
        ({"conversations": [], "system": 4}, "system message is not text"),
    ],
)
def test_what_is_no_record_says_why(value: object, reason: str) -> None:
    assert parse_record(value, where="f[0]") == Rejected(where="f[0]", reason=reason)


def test_a_bad_line_is_rejected_with_its_number_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GOOD) + "\n{broken\n" + json.dumps(GOOD), "utf-8")
    first, bad, last = read_records(path)
    assert isinstance(first, Record) and isinstance(last, Record)
    assert bad == Rejected(where="a.jsonl:2", reason="not valid JSON")


def test_half_a_surrogate_pair_becomes_a_letter_that_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"id":"a","conversations":[{"from":"human","value":"\\ud83d x"}]}]', "utf-8")
    [record] = read_records(path)
    assert isinstance(record, Record) and record.turns[0].text == "\ufffd x"


def test_a_broken_array_and_a_missing_file_are_errors_that_name_them(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[{]", "utf-8")
    with pytest.raises(DataError, match=r"a\.json is not valid JSON: the array does not end"):
        list(read_records(path))
    with pytest.raises(DataError, match=r"cannot read .*none"):
        list(read_records(tmp_path / "none.json"))


def test_the_dummy_data_has_the_published_shape(root: Path) -> None:
    for name in ("data/dummy_conversation.json", "playground/data/dummy.json"):
        records = json.loads((root / name).read_text("utf-8"))
        assert len(records) == 500
        assert all(set(record) == {"id", "conversations"} for record in records)
        for record in records:
            speakers = [turn["from"] for turn in record["conversations"]]
            assert speakers == ["human", "gpt"] * (len(speakers) // 2)
            assert len(speakers) in (2, 4, 6)
