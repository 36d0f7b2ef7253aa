"""The commands that the page on training shows run as they are written."""

import re
import shlex
from pathlib import Path

import pytest

from fastchat.train import preview, train

ROOT = Path(__file__).resolve().parents[2]


def commands(program: str) -> list[list[str]]:
    """The arguments of each command of a program on the page's first half."""
    text = (ROOT / "docs" / "training.md").read_text("utf-8").replace("\\\n", " ")
    lines = re.findall(rf"^python3 -m fastchat\.train\.{program} (.*)$", text, re.M)
    return [shlex.split(line) for line in lines]


def placed(words: list[str], out: Path) -> list[str]:
    """The arguments with the model and data of the checkout, writing elsewhere."""
    places = {
        "data/dummy_conversation.json": str(ROOT / "data" / "dummy_conversation.json"),
        "fastchat/model/vicuna-tiny": str(ROOT / "fastchat" / "model" / "vicuna-tiny"),
        "output_first": str(out / "output_first"),
        "preview.jsonl": str(out / "preview.jsonl"),
    }
    return [places.get(word, word) for word in words]


def test_the_previews_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = commands("preview")
    assert len(shown) == 2
    for words in shown:
        assert preview.main(placed(words, tmp_path)) == 0
    assert "⟦" in capsys.readouterr().out
    assert len((tmp_path / "preview.jsonl").read_text("utf-8").splitlines()) == 500


@pytest.mark.slow
def test_the_trainings_run(tmp_path: Path) -> None:
    shown = [words for words in commands("train") if "fastchat/model/vicuna-tiny" in words]
    assert len(shown) >= 2
    for words in shown:
        assert train.main(placed(words, tmp_path)) == 0
    assert (tmp_path / "output_first" / "model.safetensors").is_file()
