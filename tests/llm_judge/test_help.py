"""The help of every judging command answers without the heavy libraries, and names its flags."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from fastchat.llm_judge import __file__ as package_file

HEAVY = {"torch", "transformers", "gradio", "fastapi", "openai", "numpy", "scipy", "aiohttp"}
COMMANDS = sorted(
    path.stem
    for path in Path(package_file).parent.glob("*.py")
    if "__main__" in path.read_text("utf-8")
)
PUBLISHED = {
    "gen_model_answer": "--model-path --model-id --bench-name --question-begin --question-end "
    "--answer-file --max-new-token --num-choices --num-gpus-per-model --num-gpus-total "
    "--max-gpu-memory --dtype --revision",
    "gen_api_answer": "--model --bench-name --answer-file --num-choices --force-temperature "
    "--max-tokens --question-begin --question-end --parallel --openai-api-base",
    "gen_judgment": "--bench-name --judge-file --judge-model --baseline-model --mode --model-list "
    "--parallel --first-n",
    "show_result": "--bench-name --input-file --judge-model --baseline-model --model-list --mode "
    "--json",
    "compute_agreement": "--judges --votefiles --json",
    "clean_judgment": "--infile",
    "qa_browser": "--host --port --share --bench-name",
    "download_mt_bench_pregenerated": "--base-url",
}
PROBE = """
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    status = end.code or 0
print("\\n" + repr((status, sorted({name.partition(".")[0] for name in sys.modules}))))
"""


def test_the_published_commands_are_here() -> None:
    assert PUBLISHED.keys() - set(COMMANDS) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_the_published_flags_and_imports_nothing_heavy(command: str) -> None:
    module = f"fastchat.llm_judge.{command}"
    done = subprocess.run(
        [sys.executable, "-c", PROBE, module, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    text, _, report = done.stdout.rstrip().rpartition("\n")
    status, imported = ast.literal_eval(report)
    assert status == 0 and f"usage: python3 -m {module}" in text
    assert HEAVY & set(imported) == set()
    words = text.replace(",", " ").split()
    assert [
        flag for flag in (*PUBLISHED.get(command, "").split(), "--data-dir") if flag not in words
    ] == []


def test_a_command_runs_by_its_path_as_published(tmp_path: Path) -> None:
    folder = Path(package_file).parent
    done = subprocess.run(
        [sys.executable, "gen_judgment.py", "--help"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
