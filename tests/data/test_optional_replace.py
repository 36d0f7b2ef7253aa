"""Special tokens in texts are spelled with bars."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.optional_replace import main, tokens_to_spell, with_bars
from fastchat.model.tokenizer_file import AddedMark, TokenizerFile


@pytest.mark.parametrize(
    ("token", "spelled"),
    [("</s>", "<|/s|>"), ("<s>", "<|s|>"), ("ab", "a|b"), ("x", " "), ("[PAD]", "[|PAD|]")],
)
def test_a_token_gets_bars(token: str, spelled: str) -> None:
    assert with_bars(token) == spelled


def test_marks_are_spelled_and_pieces_of_plain_text_are_not() -> None:
    def mark(text: str, special: bool) -> AddedMark:
        return AddedMark(id=0, text=text, special=special)

    tokenizer = TokenizerFile(
        name="t",
        path="t",
        definition="{}",
        added=(
            mark("</s>", True),
            mark("<|im_end|>", False),
            mark("    ", False),
            mark("<", False),
        ),
        named=("</s>", "<pad>"),
    )
    assert tokens_to_spell(tokenizer) == ("</s>", "<pad>", "<|im_end|>")


def test_texts_are_changed_and_counted(
    tmp_path: Path, talk: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    source, report = tmp_path / "data.json", tmp_path / "report.json"
    records = [talk("a", "What is </s>?", "An end: </s>, as <s> begins."), talk("b", "Hi", "Hi")]
    source.write_text(json.dumps(records), "utf-8")
    flags = ["--model-name", "vicuna-tiny", "--report", str(report)]
    assert main(["--in", str(source), *flags]) == 0
    written = json.loads((tmp_path / "data.json_replace.json").read_text("utf-8"))
    assert [turn["value"] for turn in written[0]["conversations"]] == [
        "What is <|/s|>?",
        "An end: <|/s|>, as <|s|> begins.",
    ]
    assert written[1] == records[1]
    assert capsys.readouterr().out == "#in: 2, #out: 2, #replaced: 3\n"
    changed = json.loads(report.read_text("utf-8"))["changed"]
    assert changed == {"token </s>": 2, "token <s>": 1}


def test_without_a_tokenizer_the_data_are_copied(
    tmp_path: Path, talk: Callable[..., dict[str, Any]]
) -> None:
    source = tmp_path / "data.json"
    records = [talk("a", "What is </s>?", "An end.")]
    source.write_text(json.dumps(records), "utf-8")
    assert main(["--in", str(source)]) == 0
    assert json.loads((tmp_path / "data.json_replace.json").read_text("utf-8")) == records


def test_a_folder_without_a_tokenizer_is_an_error_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    flags = ["--in", str(tmp_path / "x.json"), "--model-name", str(tmp_path / "empty")]
    assert main(flags) == 1
    assert "no tokenizer can be loaded from" in capsys.readouterr().err
