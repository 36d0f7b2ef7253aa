"""The help page of every serving command answers without the heavy libraries."""

from pathlib import Path

import pytest
from help_pages import HelpPage, help_pages

from fastchat.serve import __file__ as package_file

pytestmark = pytest.mark.xdist_group("serve_help")

HEAVY = {"torch", "transformers", "gradio", "fastapi", "accelerate", "openai", "numpy", "pandas"}
COMMANDS = sorted(
    path.stem
    for path in Path(package_file).parent.glob("*.py")
    if "__main__" in path.read_text("utf-8")
)


@pytest.fixture(scope="module")
def pages() -> dict[str, HelpPage]:
    return help_pages(f"fastchat.serve.{command}" for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command_and_imports_nothing_heavy(
    pages: dict[str, HelpPage], command: str
) -> None:
    module = f"fastchat.serve.{command}"
    page = pages[module]
    assert page.status == 0, page.text
    assert f"usage: python3 -m {module}" in page.text
    assert HEAVY & page.imported == set()


def test_every_command_of_the_folder_is_among_them() -> None:
    assert {"cli", "controller", "launch_all_serve", "model_worker"} <= set(COMMANDS)
