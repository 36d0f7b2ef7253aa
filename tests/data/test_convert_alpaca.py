"""Instructions, trees and messages become conversations."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.convert_alpaca import main


def convert(tmp_path: Path, values: list[Any], *flags: str) -> list[dict[str, Any]]:
    source = tmp_path / "data.json"
    source.write_text(json.dumps(values), "utf-8")
    assert main(["--in", str(source), *flags]) == 0
    return json.loads((tmp_path / "data_conversation.json").read_text("utf-8"))


def texts(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(turn["from"], turn["value"]) for turn in record["conversations"]]


def test_alpaca(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = convert(
        tmp_path,
        [
            {"instruction": "Add.", "input": "1 and 2", "output": "3"},
            {"instruction": "Say hi.", "input": " x ", "output": "Hi."},
            {"instruction": "Say ho.", "output": "Ho.", "topic": "calls"},
            {"prompt": "not of this form", "completion": "x"},
            "stray",
        ],
    )
    assert [record["id"] for record in records] == ["alpaca_0", "alpaca_1", "alpaca_2"]
    assert texts(records[0]) == [("human", "Add.\nInput:\n1 and 2"), ("gpt", "3")]
    # An input of one letter is none.
    assert texts(records[1]) == [("human", "Say hi."), ("gpt", "Hi.")]
    assert texts(records[2]) == [("human", "Say ho."), ("gpt", "Ho.")]
    assert records[2]["topic"] == "calls"
    assert capsys.readouterr().out == "#out: 3\n"


def test_dolly(tmp_path: Path) -> None:
    [record] = convert(
        tmp_path,
        [{"instruction": "Sum up.", "context": "A text.", "response": "Short.", "category": "sum"}],
        *("--from", "dolly"),
    )
    assert record["id"] == "dolly_0" and record["category"] == "sum"
    assert texts(record) == [("human", "Sum up.\nInput:\nA text."), ("gpt", "Short.")]


def test_openai_messages(tmp_path: Path) -> None:
    [record] = convert(
        tmp_path,
        [
            {
                "id": "m",
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello."},
                ],
            }
        ],
        *("--from", "openai"),
    )
    assert record["system"] == "Be brief." and record["id"] == "m"
    assert texts(record) == [("human", "Hi"), ("gpt", "Hello.")]


def node(role: str, text: str, *replies: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": role, "text": text, "replies": list(replies), **fields}


TREE = {
    "message_tree_id": "t",
    "prompt": node(
        "prompter",
        "Q",
        node("assistant", "worse", rank=1),
        node(
            "assistant",
            "best",
            node("prompter", "unanswered"),
            node("prompter", "more", node("assistant", "last")),
            rank=0,
        ),
        node("assistant", "gone", deleted=True),
        lang="en",
    ),
}
SILENT = {"message_tree_id": "s", "prompt": node("prompter", "Q", node("prompter", "hello?"))}


def test_the_best_answers_of_a_tree(tmp_path: Path) -> None:
    [record] = convert(tmp_path, [TREE, SILENT, {"prompt": "x"}], "--from", "oasst")
    assert (record["id"], record["lang"]) == ("t", "en")
    assert [text for _, text in texts(record)] == ["Q", "best", "more", "last"]


def test_all_conversations_of_a_tree(tmp_path: Path) -> None:
    records = convert(tmp_path, [TREE], "--from", "oasst", "--all-paths")
    assert [record["id"] for record in records] == ["t_0", "t_1"]
    assert [text for _, text in texts(records[1])] == ["Q", "worse"]


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--all-paths"], 2, "--all-paths is about trees"),
        (["--from", "dolly"], 1, "no instruction and response: 1"),
        (["--from", "openai"], 1, "no messages: 1"),
        (["--from", "oasst"], 1, "no message tree: 1"),
        (["--strict", "--from", "dolly"], 2, "no instruction and response"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    status: int,
    message: str,
) -> None:
    source = tmp_path / "data.json"
    source.write_text(json.dumps([{"instruction": "a", "output": "b"}]), "utf-8")
    assert main(["--in", str(source), *flags]) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data_conversation.json").exists()
