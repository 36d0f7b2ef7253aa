"""Every command and recipe that docs/data.md shows is one that parses."""

import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest

from fastchat.data.prepare_all import Call, recipe_plan
from fastchat.settings import parse

COMMAND = re.compile(r"python3 -m (fastchat\.data\.\w+)([^`\n]*)")


def document(root: Path) -> str:
    return (root / "docs" / "data.md").read_text("utf-8")


def test_the_commands_of_the_document_parse(root: Path) -> None:
    found = COMMAND.findall(document(root))
    assert len(found) >= 3
    for name, flags in found:
        module = importlib.import_module(name)
        words = name.rpartition(".")[2].split("_")
        settings = getattr(module, "".join(map(str.title, words)) + "Settings")
        parse(settings, shlex.split(flags), prog=name)


def test_the_recipe_of_the_document_is_a_plan(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    [recipe] = re.findall(r"```yaml\n(.*?)```", document(root), re.DOTALL)
    Path("recipe.yaml").write_text(recipe, "utf-8")
    calls = [Call(step) for step in recipe_plan("recipe.yaml")]
    for before, after in itertools.pairwise(calls):
        assert set(after.reads) <= set(before.writes)
