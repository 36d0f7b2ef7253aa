"""prepare_all: the nine steps, the plan, what is skipped, recipes."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.prepare_all import main

FILES = {
    "hardcoded.json",
    "raw data_2048_clean.json",
    "raw data_2048_clean_lang.json",
    "raw data_2048_clean_lang_split.json",
    "raw data_2048_clean_lang_split_train.json",
    "raw data_2048_clean_lang_split_test.json",
    "raw data_2048_clean_lang_split_identity.json",
    "raw data_2048_clean_lang_split_identity_gpt4.json",
    "raw data_2048_clean_lang_split_identity_single.json",
}


@pytest.fixture
def flags(
    tmp_path: Path,
    shared: Path,
    generate: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """A folder with a raw file, whose name has a blank, and the flags that prepare it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(generate("--n", "300", "--seed", "1").path, "raw data_html.json")
    tokenizer = str(shared / "spec" / "vectors" / "tok_llama")
    return ["--prefix", "raw data", "--model-name", tokenizer, "--seq-len", "2048"]


def ran(capsys: pytest.CaptureFixture[str]) -> list[int]:
    """The numbers of the steps that were run, not skipped."""
    lines = capsys.readouterr().out.splitlines()
    return [int(x[1]) for x in lines if x.startswith("[") and "# skipped" not in x]


def load(path: str) -> Any:
    return json.loads(Path(path).read_text("utf-8"))


def test_nine_steps_leave_the_published_files_and_one_report(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 0
    assert ran(capsys) == [*range(1, 10)]
    assert set(os.listdir()) - {"raw data_html.json"} == {*FILES, "raw data_2048_report.json"}
    steps = load("raw data_2048_report.json")
    for step in steps:
        assert (
            step["in"] + step.get("added", 0) == step["out"] + sum(step.get("dropped", {}).values())
            or "hardcoded" in step["command"]
        )
    assert [step["out"] for step in steps[:4]] == [step["in"] for step in steps[1:5]]
    n_train = len(load("raw data_2048_clean_lang_split_train.json"))
    n_test = len(load("raw data_2048_clean_lang_split_test.json"))
    assert n_train == int(0.99 * steps[3]["out"]) and n_train + n_test == steps[3]["out"]
    n_identity = len(load("raw data_2048_clean_lang_split_identity.json"))
    assert n_identity == n_train + len(load("hardcoded.json")) == steps[6]["out"]
    assert {
        len(x["conversations"]) for x in load("raw data_2048_clean_lang_split_identity_single.json")
    } == {2}


@pytest.mark.slow
def test_steps_whose_files_are_as_they_left_them_are_skipped(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(flags)
    ran(capsys)
    main(flags)
    assert ran(capsys) == []
    os.utime("raw data_2048_clean_lang_split_train.json", (1, 1))
    main(flags)
    assert ran(capsys) == [5, 7, 8, 9]
    Path("raw data_2048_clean_lang_split_identity_gpt4.json").unlink()
    main([*flags, "--dry-run"])
    assert ran(capsys) == [8]
    main([*flags, "--to-step", "split_long_conversation"])
    assert ran(capsys) == []
    main([*flags, "--from-step", "8"])
    assert ran(capsys) == [8]
    os.utime("raw data_html.json", (1, 1))
    main([*flags, "--dry-run"])
    assert ran(capsys) == [1, 2, 3, 4, 5, 7, 8, 9]
    main([*flags, "--from-step", "6", "--to-step", "6", "--force"])
    assert ran(capsys) == [6]


@pytest.mark.slow
def test_without_a_report_newer_outputs_are_not_made_again(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*flags, "--to-step", "2"])
    ran(capsys)
    Path("raw data_2048_report.json").unlink()
    main([*flags, "--to-step", "2", "--dry-run"])
    assert ran(capsys) == []
    os.utime("raw data_2048_clean_lang.json", (1, 1))
    main([*flags, "--to-step", "2", "--dry-run"])
    assert ran(capsys) == [2]


def test_a_dry_run_prints_the_commands_and_does_nothing(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "[1/9] python3 -m fastchat.data.clean_sharegpt --in 'raw data_html.json' "
        "--out 'raw data_2048_clean.json'"
    )
    assert "optional_clean" in lines[1] and lines[1].endswith("--skip-lang ko")
    assert "--ratio 0.99" in lines[4] and len(lines) == 9
    assert os.listdir() == ["raw data_html.json"]
    for length, name in (("4096", "4k"), ("8192", "8k"), ("16384", "16k"), ("32768", "32k")):
        main([*flags[:-1], length, "--dry-run"])
        assert f"raw data_{name}_clean.json" in capsys.readouterr().out


@pytest.mark.slow
def test_the_first_failure_ends_the_plan(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags[3] = "no/such/model"
    assert main(flags) != 0
    assert "no/such/model" in capsys.readouterr().err
    assert len(load("raw data_2048_report.json")) == 2
    Path("raw data_html.json").unlink()
    assert main([*flags, "--force"]) == 1
    assert "cannot read raw data_html.json" in capsys.readouterr().err


def test_a_recipe_names_other_steps(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.yaml").write_text(
        """
steps:
  - clean_sharegpt: {in: raw data_html.json, out: clean.jsonl, dedup: none, strict: true}
  - optional_clean: {in: clean.jsonl, out: en.jsonl.gz, keep-lang: en}
  - hardcoded_questions: {name: Ada, out: ada.json, max-per-group: 3}
  - merge: {in: [en.jsonl.gz, ada.json], out: all.json, dedup: true}
"""
    )
    assert main(["--recipe", "my.yaml", "--workers", "1"]) == 0
    steps = load("my_report.json")
    assert [step["out"] for step in steps][2] == 9
    assert len(load("all.json")) == steps[3]["out"] > 200
    ran(capsys)
    main(["--recipe", "my.yaml"])
    assert ran(capsys) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: []", "has no list `steps`"),
        ("a: [", "is not YAML"),
        ("steps: [tidy: {}]", "step 1: there is no command 'tidy'; there are clean_sharegpt,"),
        ("steps: [merge: 5]", "the flags of merge are not a mapping"),
        ("steps: [{merge: {}, sample: {}}]", "step 1 is not one command"),
        ("steps: [merge: {in: '-', out: a.json}]", "a step of a plan reads and writes files"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    assert main(["--recipe", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert main(["--recipe", str(tmp_path / "none.yaml")]) == 2


@pytest.mark.parametrize(
    ("flag", "value"), [("--from-step", "10"), ("--to-step", "tidy"), ("--seq-len", "0")]
)
def test_steps_that_are_not_there_are_refused(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([flag, value, "--dry-run"]) == 2
    assert value in capsys.readouterr().err
