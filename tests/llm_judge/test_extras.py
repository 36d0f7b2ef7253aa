"""What is told where the base installation is all there is."""

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from fake_judge import BENCH, FakeJudge, judge

from fastchat.eval import model_qa
from fastchat.llm_judge import (
    compare,
    gen_api_answer,
    gen_model_answer,
    qa_browser,
    report,
    run_benchmark,
    show_result,
)
from fastchat.llm_judge.extras import EXTRA_OF, needing_extras

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTION = {"yaml": "pyyaml", "markdown_it": "markdown-it-py", "PIL": "pillow"}
JUDGED = (
    '{"question_id": 201, "model": "m", "judge": ["j", "p"], "score": 5, "turn": 1}\n'
    '{"question_id": 202, "model": "m", "judge": ["j", "p"], "score": 6, "turn": 1}\n'
)


def test_the_table_is_that_of_the_packages_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for module, extra in EXTRA_OF.items():
        assert DISTRIBUTION.get(module, module) in extras[extra]


@pytest.mark.parametrize(
    ("command", "module", "extra", "flags"),
    [
        (run_benchmark, "yaml", "llm_judge", ["--config", "bench.yaml"]),
        (report, "plotly", "llm_judge", [*BENCH, "--judge-model", "j"]),
        (show_result, "scipy", "llm_judge", [*BENCH, "--judge-model", "j"]),
        (compare, "scipy", "llm_judge", [*BENCH, "--judge-model", "j", "--models", "m", "m"]),
        (qa_browser, "gradio", "llm_judge", [*BENCH, "--port", "0"]),
        (gen_api_answer, "huggingface_hub", "llm_judge", ["--model", "m"]),
        (gen_model_answer, "torch", "model_worker", [*BENCH, "--model-id", "m"]),
        (model_qa, "torch", "model_worker", ["--answer-file", "a.jsonl"]),
    ],
)
def test_a_missing_extra_is_one_line(
    here: Path, monkeypatch: Any, capsys: Any, command: Any, module: str, extra: str, flags: Any
) -> None:
    Path("bench.yaml").write_text("name: shop\n")
    for bench in ("fastchat_bench", "mt_bench"):
        held = Path("data") / bench / "model_judgment" / "j_single.jsonl"
        held.parent.mkdir(parents=True)
        held.write_text(JUDGED)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    given = {
        gen_model_answer: ["--model-path", "vicuna-tiny"],
        model_qa: ["--model-name", "vicuna-tiny"],
        compare: ["--input-file", str(held), str(held)],
    }
    assert command.main([*flags, *given.get(command, [])]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].endswith(f": this needs the package {module}: pip install 'fschat[{extra}]'.")


def test_what_no_extra_brings_is_a_fault_of_ours() -> None:
    def body(settings: None) -> None:
        import nowhere_at_all  # type: ignore[import-not-found]  # noqa: F401

    with pytest.raises(ModuleNotFoundError):
        needing_extras(body)(None)


def test_answers_and_judgments_over_the_wire_need_no_extra(
    here: Path, monkeypatch: Any, fake: FakeJudge
) -> None:
    for module in EXTRA_OF:
        monkeypatch.setitem(sys.modules, module, None)
    fake.rule = lambda body: "Fine. Rating: [[6]]"
    words = [*BENCH, "--api-base", fake.url, "--parallel", "8"]
    assert gen_api_answer.main([*words, "--model", "m", "--question-end", "2"]) == 0
    assert judge(fake, "--first-n", "2") == 0
