"""The help of every command answers without heavy libraries, and names the published flags."""

import ast
import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "gradio", "fastapi", "openai", "numpy", "scipy", "aiohttp"}
PUBLISHED = {
    "qa_baseline_gpt35": "-q --question -o --output --max-tokens",
    "model_qa": "--model-name --question-file --answer-file",
    "get_model_answer": "--model-path --model-id --question-file --answer-file --num-gpus",
    "eval_gpt_review": "-q --question-file --question -a --answer-file-list --answer-list -p "
    "--prompt-file -r --reviewer-file --rule -o --output-review-file --output --max-tokens",
    "generate_webpage_data_from_table": "--input --output",
    "review_totals": "--input --json",
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


@pytest.mark.parametrize("command", PUBLISHED)
def test_help_is_light_and_has_the_published_flags(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, f"fastchat.eval.{command}", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    text, _, report = done.stdout.rstrip().rpartition("\n")
    status, imported = ast.literal_eval(report)
    assert status == 0 and not HEAVY & set(imported)
    words = set(text.replace(",", " ").split())
    assert set(PUBLISHED[command].split()) <= words
