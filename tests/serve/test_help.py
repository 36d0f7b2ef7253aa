"""The help page of every serving command answers without the heavy libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from fastchat.serve import __file__ as package_file

HEAVY = {"torch", "transformers", "gradio", "fastapi", "accelerate", "openai", "numpy", "pandas"}
COMMANDS = sorted(
    path.stem
    for path in Path(package_file).parent.glob("*.py")
    if "__main__" in path.read_text("utf-8")
)
# Runs a module as `python -m` does and reports, by its last line, what that has imported.
PROBE = """
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    status = end.code or 0
print("\\n" + repr((status, sorted({name.partition(".")[0] for name in sys.modules}))))
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command_and_imports_nothing_heavy(command: str) -> None:
    module = f"fastchat.serve.{command}"
    done = subprocess.run(
        [sys.executable, "-c", PROBE, module, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    text, _, report = done.stdout.rstrip().rpartition("\n")
    status, imported = ast.literal_eval(report)
    assert status == 0
    assert f"usage: python3 -m {module}" in text
    assert HEAVY & set(imported) == set()


def test_every_command_of_the_folder_is_among_them() -> None:
    assert {"cli", "controller", "launch_all_serve", "model_worker"} <= set(COMMANDS)
