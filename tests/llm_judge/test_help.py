"""The help of every judging command answers without the heavy libraries, and names its flags."""

import subprocess
import sys
from pathlib import Path

import pytest
from help_pages import HelpPage, help_pages

from fastchat.llm_judge import __file__ as package_file

pytestmark = pytest.mark.xdist_group("judge_help")

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


@pytest.fixture(scope="module")
def pages() -> dict[str, HelpPage]:
    return help_pages(f"fastchat.llm_judge.{command}" for command in COMMANDS)


def test_the_published_commands_are_here() -> None:
    assert PUBLISHED.keys() - set(COMMANDS) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_the_published_flags_and_imports_nothing_heavy(
    pages: dict[str, HelpPage], command: str
) -> None:
    module = f"fastchat.llm_judge.{command}"
    page = pages[module]
    assert page.status == 0 and f"usage: python3 -m {module}" in page.text, page.text
    assert HEAVY & page.imported == set()
    wanted = {*PUBLISHED.get(command, "").split(), "--data-dir"}
    assert wanted - page.words == set()


def test_a_command_runs_by_its_path_as_published(tmp_path: Path) -> None:
    folder = Path(package_file).parent
    done = subprocess.run(
        [sys.executable, "gen_judgment.py", "--help"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
