"""What a model is taught about itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.hardcoded_questions import TEXTS, exchanges, main


def written(tmp_path: Path, *flags: str) -> list[dict[str, Any]]:
    out = tmp_path / "out.json"
    assert main(["--out", str(out), *flags]) == 0
    return json.loads(out.read_text("utf-8"))


def test_there_are_937_records_in_the_current_folder_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    records = json.loads((tmp_path / "hardcoded.json").read_text("utf-8"))
    assert len(records) == 12 * 6 + 7 * 7 + 68 * 12 == 937
    assert [record["id"] for record in records] == [f"identity_{i}" for i in range(937)]
    pairs = {tuple(turn["value"] for turn in record["conversations"]) for record in records}
    assert len(pairs) == 937
    for record in records:
        assert [turn["from"] for turn in record["conversations"]] == ["human", "gpt"]
        answer = record["conversations"][1]["value"]
        assert "Vicuna" in answer and "Large Model Systems Organization (LMSYS)" in answer


@pytest.mark.parametrize("language", ["en", "de", "zh"])
def test_no_answer_names_another_model_and_no_hole_is_left(language: str) -> None:
    import tomllib

    others = tomllib.loads(TEXTS.read_text("utf-8"))["others"]
    for group in exchanges(language, name="Vicuna", org="LMSYS"):
        for question, answer in group:
            assert "{" not in question + answer
            assert "Vicuna" in answer and "LMSYS" in answer
            assert not any(other in answer for other in others["models"] + others["makers"])


def test_name_and_organization_can_be_given_and_are_not_denied(tmp_path: Path) -> None:
    records = written(tmp_path, "--name", "Falcon", "--org", "The Mistral AI Team")
    assert len(records) == 12 * 6 + 7 * 7 + (68 - 4) * 12
    for record in records:
        question, answer = (turn["value"] for turn in record["conversations"])
        assert "Falcon" in answer and "The Mistral AI Team" in answer
        assert "Falcon" not in question and "Mistral AI" not in question


def test_languages_rounds_and_limits(tmp_path: Path) -> None:
    records = written(tmp_path, "--languages", "en,de,zh", "--max-per-group", "5")
    assert len(records) == 3 * 3 * 5
    records = written(tmp_path, "--multi-turn", "--max-per-group", "5")
    assert [len(record["conversations"]) for record in records] == [2] * 15 + [6] * 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--languages", "fr"], "there are texts in en, de, zh only"),
        (["--name", " "], "cannot be empty"),
        (["--max-per-group", "0"], "--max-per-group 0"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    out = tmp_path / "out.json"
    assert main(["--out", str(out), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
