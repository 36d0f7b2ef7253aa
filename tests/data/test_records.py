"""Training records from JSON and JSON Lines."""

import json
import pickle
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    ("extra", "of_turn", "is_text"),
    [
        ({}, {}, True),
        ({"model": "gpt4", "note": ""}, {}, True),
        ({"n": 1}, {}, False),
        ({"list": ["a"]}, {}, False),
        ({}, {"weight": 0}, False),
        ({}, {"name": "a"}, False),
        ({"chosen": [{"from": "gpt", "value": "b"}], "rejected": "c"}, {}, False),
    ],
)
def test_records_of_text_alone_are_known(
    extra: dict[str, Any], of_turn: dict[str, Any], is_text: bool
) -> None:
    talk = [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y", **of_turn}]
    record = parse_record({"id": "1", "conversations": talk, **extra}, where="here")
    assert isinstance(record, Record) and record.is_text == is_text


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


TALK = (Turn(speaker="human", text="Hi"), Turn(speaker="gpt", text="Hello."))
PAIR = {
    "chosen": (Turn(speaker="gpt", text="Hello."),),
    "rejected": (Turn(speaker="gpt", text="What?"),),
}


def spoken(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


@pytest.mark.parametrize(
    ("value", "record"),
    [
        (
            {"messages": [spoken("user", "Hi"), spoken("assistant", "Hello.")], "lang": "en"},
            Record(id="f:1", turns=TALK, extra={"lang": "en"}),
        ),
        (
            {
                "id": "a",
                "messages": [
                    spoken("developer", "Be brief."),
                    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                    spoken("assistant", "Hello."),
                ],
            },
            Record(id="a", system="Be brief.", turns=TALK),
        ),
        ({"prompt": "Hi", "completion": "Hello."}, Record(id="f:1", turns=TALK)),
        (
            {"prompt": [spoken("user", "Hi")], "completion": [spoken("assistant", "Hello.")]},
            Record(id="f:1", turns=TALK),
        ),
        (
            {"prompt": "Hi", "chosen": "Hello.", "rejected": "What?", "score": 2},
            Record(id="f:1", turns=TALK[:1], extra={"score": 2}, **PAIR),
        ),
        (
            {
                "chosen": [spoken("user", "Hi"), spoken("assistant", "Hello.")],
                "rejected": [spoken("user", "Hi"), spoken("assistant", "What?")],
            },
            Record(id="f:1", turns=TALK[:1], **PAIR),
        ),
        (
            {
                "prompt": "Hi",
                "chosen": [spoken("user", "Hi"), spoken("assistant", "Hello.")],
                "rejected": [spoken("user", "Hi"), spoken("assistant", "What?")],
            },
            Record(id="f:1", turns=TALK[:1], **PAIR),
        ),
        (
            {
                "id": "a",
                "conversations": GOOD["conversations"][:1],
                "chosen": {"from": "gpt", "value": "Hello."},
                "rejected": {"from": "gpt", "value": "What?"},
            },
            Record(id="a", turns=TALK[:1], **PAIR),
        ),
        (
            {"instruction": "Add.", "input": "1, 2", "output": "3"},
            Record(
                id="f:1",
                turns=(
                    Turn(speaker="human", text="Add.\nInput:\n1, 2"),
                    Turn(speaker="gpt", text="3"),
                ),
            ),
        ),
        (
            {"instruction": "Hi", "input": " ", "output": "Hello."},
            Record(id="f:1", turns=TALK),
        ),
    ],
)
def test_every_form_becomes_a_record_and_is_written_in_ours(
    value: dict[str, Any], record: Record
) -> None:
    found = parse_record(value, where="f:1", need_id=True)
    assert found == record
    written = record.to_json()
    assert parse_record(written, where="elsewhere", need_id=True) == record
    assert pickle.loads(pickle.dumps(record)) == record


def test_what_a_message_holds_besides_its_text_travels() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    picture = [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": "x"}}]
    record = parse_record(
        {
            "messages": [
                {"role": "user", "content": picture},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "3", "tool_call_id": "c"},
            ]
        },
        where="f:1",
    )
    assert isinstance(record, Record)
    assert [turn.speaker for turn in record.turns] == ["human", "gpt", "tool"]
    assert record.to_json()["conversations"] == [
        {"from": "human", "value": "See", "content": picture},
        {"from": "gpt", "value": "", "tool_calls": [call]},
        {"from": "tool", "value": "3", "tool_call_id": "c"},
    ]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"conversations": []}, "no id"),
        ({"messages": 5}, "messages are neither text nor a list"),
        ({"messages": [spoken("user", "x") | {"content": 5}]}, "message text is not a string"),
        ({"messages": [{"role": "assistant"}]}, "message without text"),
        ({"messages": [{"role": 1, "content": "x"}]}, "message without role"),
        ({"instruction": 5, "output": "x"}, "instruction or output is not text"),
        ({"chosen": "same", "rejected": "same"}, "chosen and rejected do not differ"),
    ],
)
def test_other_forms_say_why_they_are_none(value: object, reason: str) -> None:
    assert parse_record(value, where="f:1", need_id=True) == Rejected(where="f:1", reason=reason)
