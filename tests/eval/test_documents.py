"""The commands and the benchmark file that the documents show are understood."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from fastchat import settings
from fastchat.llm_judge import run_benchmark

ROOT = Path(__file__).parents[2]


def commands() -> list[str]:
    text = (ROOT / "fastchat/eval/README.md").read_text("utf-8")
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return re.findall(r"^    (python3 -m fastchat\.\S+.*)$", joined, re.MULTILINE)


@pytest.mark.parametrize("line", commands())
def test_a_documented_line_is_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, name, *arguments = shlex.split(line)
    module = importlib.import_module(name)
    seen: list[object] = []

    def run_command(cls: type, body: object, argv: list[str], *, prog: str) -> int:
        assert prog == f"python3 -m {name}"
        seen.append(settings.parse(cls, argv, prog=prog))
        return 0

    monkeypatch.setattr(module, "run_command", run_command)
    assert module.main(arguments) == 0 and len(seen) == 1


def test_the_documented_benchmark_is_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/judging.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    Path("shop.yaml").write_text(block)
    assert run_benchmark.main(["--config", "shop.yaml", "--check"]) == 0
    assert "5 questions, 7 turns" in capsys.readouterr().out
    Path("shop.yaml").write_text(block.replace("# questions_file", "questions_file"))
    Path("more.jsonl").write_text('{"question_id": 90, "category": "x", "turns": ["Hi!"]}\n')
    assert run_benchmark.main(["--config", "shop.yaml", "--check"]) == 0
    assert "6 questions, 8 turns" in capsys.readouterr().out
