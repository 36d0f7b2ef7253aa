"""The help page of every analysis command answers without the heavy libraries."""

import ast
import subprocess
import sys
from pathlib import Path

from fastchat.serve.monitor import __file__ as package_file

FOLDER = Path(package_file).parent
HEAVY = {"torch", "transformers", "gradio", "openai", "numpy", "polars", "plotly", "sklearn"}
COMMANDS = sorted(
    "fastchat.serve.monitor." + ".".join(path.relative_to(FOLDER).with_suffix("").parts)
    for path in FOLDER.rglob("*.py")
    if "__main__" in path.read_text("utf-8")
)
# Imports each command and prints its help, then which libraries all of that has loaded.
PROBE = """
import contextlib, importlib, io, sys
for name in sys.argv[1:]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            importlib.import_module(name).main(["--help"])
        except SystemExit as end:
            assert not end.code, name
    assert f"usage: python3 -m {name}" in said.getvalue(), name
print(sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_help_names_each_command_and_imports_nothing_heavy() -> None:
    more = ["fastchat.arena.simulate", "fastchat.data.votes_to_pairs"]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *COMMANDS, *more],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert HEAVY & set(ast.literal_eval(done.stdout)) == set()
    assert len(COMMANDS) >= 17
