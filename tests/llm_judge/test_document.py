"""What docs/judging.md and the README show is what the commands do."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_judge import FakeJudge, rows_of

from fastchat import settings

COMMAND = re.compile(r"python3 -m (fastchat\.llm_judge\.\w+)((?:[^`\n\\]|\\\n)*)")
SHORTER = ("--max-new-token", "16", "--device", "cpu", "--num-threads", "1", "--question-end", "4")


def commands(path: Path) -> list[tuple[str, list[str]]]:
    found = COMMAND.findall(path.read_text("utf-8"))
    return [(name, shlex.split(flags.replace("\\\n", " "))) for name, flags in found]


@pytest.mark.parametrize("name", ["docs/judging.md", "README.md"])
def test_the_commands_of_the_documents_parse(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_command(cls: type, body: object, argv: list[str], *, prog: str) -> int:
        settings.parse(cls, argv, prog=prog)
        return 0

    found = commands(root / name)
    assert len(found) >= 4
    for module_name, flags in found:
        module = importlib.import_module(module_name)
        monkeypatch.setattr(module, "run_command", run_command)
        assert module.main(flags) == 0


def test_every_flag_that_the_document_names_exists(root: Path) -> None:
    folder = root / "fastchat" / "llm_judge"
    known = {
        "--" + field.replace("_", "-")
        for path in folder.glob("*.py")
        for field in re.findall(r"^    (\w+): .*", path.read_text("utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"`(--[a-z][a-z-]+)", (root / "docs" / "judging.md").read_text("utf-8")))
    assert len(named) > 10 and named - known == set()


@pytest.mark.slow
def test_a_new_user_answers_judges_and_looks_in_the_readmes_words(
    root: Path, here: Path, fake: FakeJudge
) -> None:
    """Two checkpoints: the shipped model, and one of the same form that has learned nothing."""
    fake.rule = lambda body: f"Rating: [[{3 + len(body['messages'][1]['content']) % 5}]]"
    lines = commands(root / "README.md")
    assert [name.rpartition(".")[2] for name, _ in lines] == [
        *("gen_model_answer", "gen_judgment", "show_result", "qa_browser")
    ]
    env = {
        **os.environ,
        **{"OPENAI_BASE_URL": fake.url, "OPENAI_API_KEY": "k", "OMP_NUM_THREADS": "1"},
    }

    def called(name: str, flags: list[str]) -> str:
        command = [sys.executable, "-m", name, *flags]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(line: int, *more: str) -> str:
        name, flags = lines[line]
        return called(name, [*flags, *more])

    base = untrained(here / "base")
    run(0, *SHORTER)
    run(0, *SHORTER, "--model-path", str(base), "--model-id", "tiny-base")
    assert json.loads(run(1, "--first-n", "4"))["total_num_matches"] == 16
    shown = run(2, "--compare", "vicuna-tiny", "tiny-base")
    assert "vicuna-tiny less tiny-base" in shown
    assert "questions a difference of" in shown
    name, flags = next(
        (name, flags)
        for name, flags in commands(root / "docs" / "judging.md")
        if name.endswith(".compare")
    )
    names = {"tuned": "vicuna-tiny", "base": "tiny-base"}
    assert called(name, [names.get(flag, flag) for flag in flags]) in shown
    rows = rows_of(here / "data/fastchat_bench/model_judgment/gpt-4_single.jsonl")
    assert len(rows) == len(fake.bodies) == 16
    assert rows[0]["user_prompt"] in [body["messages"][1]["content"] for body in fake.bodies]


def untrained(folder: Path) -> Path:
    """The shipped model's form with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    import fastchat.model as package

    shipped = Path(package.__file__).parent / "vicuna-tiny"
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(shipped))
    model.save_pretrained(folder)
    for path in shipped.iterdir():
        if path.name.startswith(("tokenizer", "chat_template", "special_tokens")):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.slow
def test_our_own_server_is_a_judge_like_any_other(here: Path) -> None:
    """The shipped model judges over the API; it cannot, which is told and counts nowhere."""
    from fake_judge import BENCH, answer
    from real_processes import free_port, running, wait_until_answers

    from fastchat.llm_judge import gen_judgment
    from fastchat.llm_judge.folders import Bench, read_single

    answer("m", "--question-end", "2")
    port = free_port()
    worker = ["fastchat.serve.model_worker", "--model-path", "vicuna-tiny", "--device", "cpu"]
    worker += ["--port", str(port), "--host", "127.0.0.1", "--no-register", "--num-threads", "1"]
    with running(worker, log_path=here / "log") as processes:
        url = f"http://127.0.0.1:{port}/v1"
        wait_until_answers(f"{url}/models", processes)
        words = [*BENCH, "--api-base", url, "--judge-model", "vicuna-tiny", "--first-n", "2"]
        flags = ["--parallel", "4", "--max-tokens", "24"]
        assert gen_judgment.main([*words, *flags]) == 0
    bench = Bench(data_dir=Path("data"), name="fastchat_bench")
    rows = read_single(bench.judgment_file("vicuna-tiny", "single")).rows
    assert len(rows) == 4
    assert all(1 <= row.score <= 10 or (row.model_extra or {})["reason"] for row in rows)
