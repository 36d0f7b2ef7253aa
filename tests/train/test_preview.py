"""The preview shows what training sees."""

import json
from pathlib import Path

import pytest

from fastchat.train import preview


def run(*words: object) -> int:
    return preview.main([str(word) for word in words])


def test_json_lines_are_the_published_vectors(shared: Path, tmp_path: Path) -> None:
    folder = shared / "spec" / "vectors"
    cases = json.loads((folder / "masking_vectors.json").read_text("utf-8"))["cases"]
    for kind in ("tok_llama", "tok_bytebpe"):
        mine = [case for case in cases if case["tokenizer"] == kind]
        data = tmp_path / "data.json"
        records = [{"id": c["name"], "conversations": c["conversations"]} for c in mine]
        data.write_text(json.dumps(records), "utf-8")
        out = tmp_path / f"{kind}.jsonl"
        flags = ["--data_path", data, "--model_name_or_path", folder / kind]
        assert run(*flags, "--model_max_length", 256, "--json", out) == 0
        seen = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
        assert [set(line) for line in seen] == [{"id", "text", "input_ids", "labels"}] * len(mine)
        for line, case in zip(seen, mine, strict=True):
            assert line["id"] == case["name"]
            for name in ("text", "input_ids", "labels"):
                assert line[name] == case["expected"][name], case["name"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.json"
    talk = [{"from": "human", "value": "red"}, {"from": "gpt", "value": "blue"}]
    records = [{"id": "good", "conversations": talk}, {"id": "bad", "conversations": talk[:1]}]
    path.write_text(json.dumps(records), "utf-8")
    return path


def test_without_a_file_the_mask_is_shown_in_the_terminal(
    tiny_llama: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--data-path", data, "--model-name", tiny_llama) == 0
    shown = capsys.readouterr()
    assert "USER: red ASSISTANT:⟦ blue</s>⟧" in shown.out
    assert "records 2, learned from 1, dropped 1" in shown.err
    assert "dropped 1: no reply" in shown.err


def test_other_templates_and_modes(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    flags = ["--data_path", data, "--model_name_or_path", tiny_llama, "--json", out]
    assert run(*flags, "--conv-template", "llama-2", "--loss-on", "all_tokens") == 0
    [line] = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert "[INST]" in line["text"]
    assert line["labels"][2:] == line["input_ids"][2:]


def test_what_is_missing_is_said_in_one_line(
    tiny_llama: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--data_path", tmp_path / "no.json", "--model_name_or_path", tiny_llama) == 1
    assert "no.json" in capsys.readouterr().err
    assert run("--data_path", data, "--model_name_or_path", tmp_path / "none") == 1
    assert "no tokenizer can be loaded" in capsys.readouterr().err
